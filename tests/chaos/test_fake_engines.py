"""Fifty and more faults of every kind on a sweep of faked legs on real Ray; each leg ends with its one outcome.

RAYBENCH_CHAOS_SEED=7 draws another list.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

import pytest

from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from tests.chaos import checks
from tests.chaos.fake import SCRIPT
from tests.chaos.nodes import Nodes
from tests.chaos.script import CLUSTER_STRIKES, ENDS, LITTER, PLACES, STRIKES, Script, draw_script
from tests.chaos.stage import Stage
from tests.conftest import ROOT
from tests.tracking.conftest import Server

SPACE = """
setting: {model: lenet, dataset: synthetic, batch_size: [8, 16], workers: 2}
arms:
  ddp: {engine: torch}
  zero1: {engine: deepspeed, config: {zero_optimization: {stage: 1}}}
  zero2: {engine: deepspeed, config: {zero_optimization: {stage: 2}}}
protocol: {warmup_steps: 2, steps: 10, rounds: 4}
repeats: 4
leg_timeout_seconds: 8
"""
SEED = int(os.environ.get("RAYBENCH_CHAOS_SEED", "1"))
VARIABLES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "clock"), str(ROOT)]),
}  # fmt: skip


def chaos_plan(folder: Path) -> Plan:
    (folder / "chaos.yaml").write_text(SPACE)
    return build_plan(*load_space(str(folder / "chaos.yaml")), sweep="c")


def big_script(seed: int, plan: Plan) -> Script:
    return draw_script(
        seed, plan, leg_faults=26, strikes=STRIKES * 2 + CLUSTER_STRIKES * 2, ends=[*ENDS],
        litter=[*LITTER, "torn"], places=["own", "cluster"], tracking=True,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_draws_the_same_faults(seed: int, tmp_path: Path) -> None:
    plan = chaos_plan(tmp_path)
    script = big_script(seed, plan)
    assert script == big_script(seed, plan)
    assert script != big_script(seed + 1, plan)
    assert script.num_faults() >= 50
    blows = [blow for run in script.runs for blow in run.blows]
    assert {blow.kind for blow in blows} == {*STRIKES, *CLUSTER_STRIKES, *ENDS, "stop_tracking", "start_tracking"}
    assert [blow.at for blow in blows] == sorted(blow.at for blow in blows)
    assert blows[-1].at < len(plan.legs())
    for run in script.runs:
        assert run.blows[-1].kind in ENDS
        assert run.where == "cluster" or not {blow.kind for blow in run.blows} & set(CLUSTER_STRIKES)
        assert PLACES.get(run.blows[-1].kind, run.where) == run.where


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_faults_and_every_leg_has_its_one_outcome(tmp_path: Path) -> None:
    plan = chaos_plan(tmp_path)
    script = big_script(SEED, plan)
    (tmp_path / SCRIPT).write_text(json.dumps(script.describe()["legs"]))
    (tmp_path / "tracking").mkdir()
    clock = tmp_path / "clock"
    clock.touch()
    variables = VARIABLES | {"RAYBENCH_TEST_CLOCK": str(clock)}
    server, mark, begun = Server(tmp_path / "tracking"), uuid.uuid4().hex, time.time()
    stage = Stage(
        tmp_path, "tests.chaos.driver", "chaos", "c", len(plan.legs()), ["space=chaos.yaml"], server, variables, clock,
        mark,
    )  # fmt: skip
    try:
        with Nodes(2, tmp_path, mark, variables) as stage.nodes:
            stage.perform(script)
            stage.assert_cluster_is_empty()
        stage.assert_no_process_of(mark)
        rows = checks.check_complete(stage.ledger, plan)
        checks.check_failures(rows, script)
        checks.check_measurements(rows, plan)
        assert min(row["started_at"].timestamp() for row in rows) < begun - 3000  # the clock was set back
        checks.check_set_aside(stage.ledger)
        stage.check_tracking(rows)
        stage.check_verified()
        checks.check_nothing_is_left(stage.ledger)
    except BaseException:
        print(checks.as_text(script, stage.told))
        raise
    finally:
        if server.process.poll() is None:
            server.kill()
