"""The recorder without Ray: durable rows, what is left, which leg died; and MLflow when it is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raybench import outcome as outcomes
from raybench.ledger import Ledger
from raybench.outcome import Failure
from raybench.plan import Plan, build_plan
from raybench.recorder import Recorder
from raybench.space import load_space
from tests.test_ledger import MEASUREMENT


@pytest.fixture
def plan() -> Plan:
    return build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}), sweep="s")


@pytest.fixture
def recorder(plan: Plan, tmp_path: Path) -> Recorder:
    return Recorder(
        plan.model_dump_json(),
        str(tmp_path / "led"),
        "question: {}\n",
        f"sqlite:///{tmp_path}/m.db",
        str(tmp_path / "a"),
    )


def record(recorder: Recorder, leg_id: str, **changes: float) -> None:
    recorder.trial_began(recorder.legs[leg_id][0].trial_id)
    recorder.begin("group", leg_id)
    recorder.record("group", leg_id, outcomes.to_dict(replace(MEASUREMENT, **changes)))


def test_a_recorded_leg_is_durable_and_no_longer_left(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    trial = plan.trials[0]
    assert recorder.remaining(trial.trial_id) == [leg.leg_id for leg in trial.legs]
    assert not (tmp_path / "led").exists()
    record(recorder, trial.legs[0].leg_id)
    (row,) = Ledger(tmp_path / "led").rows()
    assert (row["leg_id"], row["process_group"]) == (trial.legs[0].leg_id, "group")
    assert (tmp_path / "led/_space.yaml").read_text() == "question: {}\n"
    assert recorder.remaining(trial.trial_id) == [leg.leg_id for leg in trial.legs[1:]]
    assert recorder.unfinished("group") is None


def test_the_leg_that_a_dead_group_had_begun(recorder: Recorder, plan: Plan) -> None:
    first, second, *_ = plan.trials[0].legs
    assert recorder.unfinished("group") is None
    record(recorder, first.leg_id)
    recorder.begin("group", second.leg_id)
    died = recorder.unfinished("group")
    assert died is not None
    assert died[0] == second.leg_id
    assert 0 <= died[1] < 60


def test_a_legs_first_outcome_stays(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    leg = plan.trials[0].legs[0]
    record(recorder, leg.leg_id, first_loss=1.0)
    record(recorder, leg.leg_id, first_loss=2.0)
    recorder.record("other", leg.leg_id, outcomes.to_dict(Failure("crashed", "late")))
    assert [row["first_loss"] for row in Ledger(tmp_path / "led").rows()] == [1.0]


def test_what_happened_is_told_once(recorder: Recorder, plan: Plan) -> None:
    first, second, *_ = plan.trials[0].legs
    record(recorder, first.leg_id)
    recorder.begin("group", second.leg_id)
    recorder.record("group", second.leg_id, outcomes.to_dict(Failure("timeout", "too long")))
    news = recorder.news(0)
    assert [event.get("failure") for event in news["events"]] == [None, "timeout: too long"]
    assert news["events"][0]["mean_step_seconds"] == pytest.approx(0.1875)
    assert 0 <= news["events"][0]["seconds"] < 60
    assert news["running"] == []
    assert recorder.news(2)["events"] == []
    recorder.begin("group", plan.trials[0].legs[2].leg_id, "node7")
    (runs,) = recorder.news(2)["running"]
    assert (runs["arm"], runs["node"]) == (plan.trials[0].legs[2].arm_name, "node7")


def test_a_sweep_that_is_to_stop_begins_no_leg_and_keeps_the_one_that_runs(recorder: Recorder, plan: Plan) -> None:
    trial = plan.trials[0]
    recorder.trial_began(trial.trial_id)
    assert recorder.begin("group", trial.legs[0].leg_id)
    recorder.drain()
    assert recorder.news(0)["num_active"] == 1
    recorder.record("group", trial.legs[0].leg_id, outcomes.to_dict(MEASUREMENT))
    assert not recorder.begin("group", trial.legs[1].leg_id)
    assert recorder.remaining(trial.trial_id) == []
    assert recorder.unfinished("group") is None
    recorder.trial_ended(trial.trial_id)
    assert recorder.news(1) == {"events": [], "running": [], "num_active": 0}


def test_a_recorder_begun_anew_knows_what_the_ledger_holds(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    record(recorder, plan.trials[0].legs[0].leg_id)
    again = Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/n.db", str(tmp_path / "b")
    )
    assert len(again.remaining(plan.trials[0].trial_id)) == len(plan.trials[0].legs) - 1
    assert again.finish() == []


def test_without_mlflow_the_rows_are_kept_and_the_error_is_told(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/file/m.db", str(tmp_path)
    )
    record(recorder, plan.trials[0].legs[0].leg_id)
    record(recorder, plan.trials[1].legs[0].leg_id)
    for trial in plan.trials:
        recorder.trial_ended(trial.trial_id)
    errors = recorder.finish()
    assert errors
    assert len(Ledger(tmp_path / "led").rows()) == 2
