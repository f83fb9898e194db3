"""Every space that ships runs for real in its small size, all arms of it, in one group of two processes."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from typing import Any

import pyarrow.parquet as pq
import pytest

from raybench.declare import experiment
from raybench.declare.plan import Plan, Trial, build_plan
from raybench.declare.space import Space, load_space
from tests.conftest import ROOT
from tests.training.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SPACES = sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml"))
SHORT = {"protocol.warmup_steps": "1", "protocol.steps": "3", "protocol.rounds": "1", "repeats": "1"}
SMALL_CVT = {"depth": [1, 2, 3], "embed_dim": [16, 32, 64], "num_heads": [1, 2, 4]}
# Arms that a CPU cannot run, by space and arm, with words of the reason.
UNSUPPORTED = {("offload", "fsdp_offload"): "the model is on the CPU already"}


def cut(name: str) -> Space:
    """The small space with one setting of two workers for each precision and what is trained, and in `paper` for each
    model."""
    _, space = load_space(name, SHORT, size="small")
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for values in space.settings():
        if values["workers"] == 2:
            kind = values["model"] if name == "paper" else values["dataset"] if name == "quickstart" else ""
            trained = json.dumps([values.get("trainable"), values.get("lora")])  # of `finetune`
            chosen.setdefault((values["precision"], kind, trained), values)
    if name == "vits" and find_spec("transformers"):
        values = next(iter(chosen.values()))
        chosen["cvt", ""] = {**values, "model": "cvt_13", "model_options": SMALL_CVT}
    return space.model_copy(update={"variants": tuple(chosen.values())})


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Trial, dict[str, dict[str, Any]]]]]:
    """By space: its trials, each with the rows of its arms."""
    folder = tmp_path_factory.mktemp("shipped")
    plans = {name: build_plan(name, cut(name)) for name in SPACES}
    one = next(iter(plans.values()))
    every = Plan(
        space="shipped", sweep="small", question=one.question, trials=sum((p.trials for p in plans.values()), ())
    )
    plan = folder / "plan.json"
    plan.write_text(every.model_dump_json())
    torchrun(2, "raybench.training", str(plan), f"ledger={folder / 'ledger'}", timeout=1500)
    rows = {row["leg_id"]: row for row in pq.read_table(folder / "ledger").to_pylist()}
    return {
        name: [(trial, {leg.arm_name: rows[leg.leg_id] for leg in trial.legs}) for trial in plan.trials]
        for name, plan in plans.items()
    }


@pytest.mark.timeout(1600)
@pytest.mark.parametrize("name", SPACES)
def test_every_arm_of_a_shipped_space_trains(
    name: str, trials: dict[str, list[tuple[Trial, dict[str, dict[str, Any]]]]]
) -> None:
    space = load_space(name, size="small")[1]
    for trial, rows in trials[name]:
        assert set(rows) == set(space.arms)
        for arm, row in rows.items():
            what = f"{trial.label}, {arm}: {row['failure_kind']}: {row['failure_message']}"
            if (name, arm) in UNSUPPORTED:
                assert row["failure_kind"] == "unsupported", what
                assert UNSUPPORTED[name, arm] in row["failure_message"]
                continue
            assert row["status"] == "ok", what
            assert math.isfinite(row["final_loss"])


@pytest.mark.parametrize("name", SPACES)
def test_the_arms_of_a_shipped_space_are_comparable(
    name: str, trials: dict[str, list[tuple[Trial, dict[str, dict[str, Any]]]]]
) -> None:
    space = load_space(name, size="small")[1]
    for trial, rows in trials[name]:
        base = rows[space.baseline]
        for arm, row in rows.items():
            if row["status"] != "ok":
                continue
            found, of_base = json.loads(row["facts"]), json.loads(base["facts"])
            unequal = experiment.differences(found, of_base, space.differs, trial.setting.precision)
            assert unequal == [], (trial.label, arm)
            if not space.differs:
                tolerance = 1e-3 if trial.setting.precision == "fp32" else 5e-2
                assert row["final_loss"] == pytest.approx(base["final_loss"], rel=tolerance), (trial.label, arm)


def test_what_small_images_did_is_recorded(trials: dict[str, list[tuple[Trial, dict[str, dict[str, Any]]]]]) -> None:
    (trial, rows), *_ = trials["cnns"]
    assert trial.setting.small_images == "stem"
    assert "stride 1" in json.loads(rows["ddp"]["facts"])["model_options"]["stem"]


def test_each_precision_has_the_rate_of_its_own_matrix_product(
    trials: dict[str, list[tuple[Trial, dict[str, dict[str, Any]]]]],
) -> None:
    (_, rows), *_ = trials["ladder"]
    rates = {(row["precision"], row["matmul_tflops"]) for row in rows.values() if row["status"] == "ok"}
    assert {precision for precision, _ in rates} == {"fp32", "bf16"}
    assert len({rate for _, rate in rates}) == len(rates) == 2
