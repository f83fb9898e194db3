"""Two spellings of one arm are one arm: ids, sweep name, and a sweep that the other spelling resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from tests.conftest import ROOT

CPU = {"device": "cpu"}
SPELLINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"zero": 1}, {"config": {"zero_optimization": {"stage": 1}, "gradient_clipping": "auto"}}),
    ({"zero": 1}, {"config": {"zero_optimization": {"stage": 1}}}),
    ({"zero": 2, "overlap_comm": True}, {"config": {"zero_optimization": {"stage": 2, "overlap_comm": True}}}),
    ({"zero": 2, "overlap_comm": True}, {"zero": 2, "config": {"zero_optimization": {"overlap_comm": True}}}),
    ({"zero": 1}, {"zero": 1, "config": {"steps_per_print": 2**31 - 1, "wall_clock_breakdown": False}}),
    ({"zero": 1, "offload": "optimizer"}, {"zero": 1, "config": {"zero_optimization": {"offload_optimizer": CPU}}}),
    (
        {"zero": 3, "offload": "both"},
        {"zero": 3, "offload": "parameters", "config": {"zero_optimization": {"offload_optimizer": CPU}}},
    ),
    ({"reduce_bucket_size": 9, "zero": 1}, {"config": {"zero_optimization": {"stage": 1, "reduce_bucket_size": 9}}}),
]  # fmt: skip
OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"zero": 1}, {"zero": 2}),
    ({"zero": 1}, {"config": {"zero_optimization": {"stage": 1, "round_robin_gradients": True}}}),
    ({"zero": 1}, {"zero": 1, "config": {"prescale_gradients": True}}),
    (
        {"zero": 1, "offload": "optimizer"},
        {"zero": 1, "config": {"zero_optimization": {"offload_optimizer": {**CPU, "pin_memory": True}}}},
    ),
]  # fmt: skip


def plan_of(folder: Path, arm: dict[str, Any]) -> Plan:
    space = {
        "setting": {"model": "lenet", "dataset": "digits", "batch_size": [8, 16], "workers": 1},
        "arms": {"ddp": {"engine": "torch"}, "ds": {"engine": "deepspeed", **arm}},
        "protocol": {"kind": "throughput", "warmup_steps": 1, "steps": 2, "rounds": 1},
    }
    folder.mkdir(exist_ok=True)
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(space))
    return build_plan(*load_space(str(file)))


def named(plan: Plan) -> tuple[str, list[str]]:
    return plan.sweep, [leg.leg_id for _, leg in plan.legs()]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_two_spellings_have_the_same_ids_and_name(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert named(plan_of(tmp_path, one)) == named(plan_of(tmp_path, other))


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_another_config_is_another_arm(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = plan_of(tmp_path, one), plan_of(tmp_path, other)
    assert first.sweep != second.sweep
    shared = set(named(first)[1]) & set(named(second)[1])
    assert shared == {leg.leg_id for _, leg in first.legs() if leg.arm_name == "ddp"}


@pytest.mark.parametrize("name", ["zero", "paper"])
def test_the_shipped_ledgers_are_complete(name: str) -> None:
    from raybench.ledger.dataset import Ledger

    folder = ROOT / "results" / name / "small"
    plan = build_plan(*load_space(str(folder / "_space.yaml"), large=True))
    assert {leg.leg_id for _, leg in plan.legs()} == Ledger(folder).leg_ids()
