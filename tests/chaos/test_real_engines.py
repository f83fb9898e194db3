"""The same on real engines, DDP and ZeRO-1, with fewer faults."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from tests.chaos import checks
from tests.chaos.script import LegFault, draw_script
from tests.chaos.stage import Stage
from tests.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

SPACE = """
setting: {model: "faulty:net", dataset: digits, batch_size: 32, workers: 2}
differs: [model_options]
arms:
  ddp: {engine: torch}
  zero1: {engine: deepspeed, config: {zero_optimization: {stage: 1}}}
  exits: {engine: torch, setting: {model_options: {fault: exit, only_rank: 1}}}
  nan: {engine: torch, setting: {model_options: {fault: nan}}}
protocol: {warmup_steps: 2, steps: 40, rounds: 1}
repeats: 2
leg_timeout_seconds: 60
"""
SEED = int(os.environ.get("RAYBENCH_CHAOS_SEED", "1"))


def test_real_legs_are_neither_lost_nor_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chaos.yaml").write_text(SPACE)
    shutil.copy(ROOT / "tests/sweep/faulty.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = build_plan(*load_space("chaos.yaml"), sweep="c")
    script = draw_script(
        SEED, plan, leg_faults=0, strikes=["kill_worker", "kill_recorder"], ends=["kill_driver", "interrupt"],
        litter=[], places=["own"], tracking=False,
    )  # fmt: skip
    kinds = {"exits": "exit", "nan": "nan"}
    faults = {leg.leg_id: LegFault(kinds[leg.arm_name], 1) for _, leg in plan.legs() if leg.arm_name in kinds}
    script = replace(script, legs=faults)
    stage = Stage(tmp_path, "raybench.sweep", "chaos", "c", len(plan.legs()), ["space=chaos.yaml"])
    try:
        stage.perform(script)
        rows = checks.check_complete(stage.ledger, plan)
        checks.check_failures(rows, script)
        assert {row["engine"] for row in rows if row["status"] == "ok"} == {"torch", "deepspeed"}
        stage.check_tracking(rows)
        stage.check_verified()
        checks.check_nothing_is_left(stage.ledger)
    except BaseException:
        print(checks.as_text(script, stage.told))
        raise
