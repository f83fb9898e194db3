"""retry=: which failed legs run again, and that no row of theirs is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.recorder import Recorder
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import FAILURE_KINDS, Failure
from raybench.sweep import _kinds, main, withdraw_failed
from tests.ledger.test_dataset import MEASUREMENT


@pytest.fixture
def plan() -> Plan:
    return build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}), sweep="s")


class NoMlflow:
    """In the place of the thread that writes to MLflow."""

    def __init__(self, *_: str) -> None:
        pass

    def log(self, rows: list[dict]) -> None:
        pass


def attempts(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """By trial, how often the recorder that goes on takes it to have begun anew."""
    monkeypatch.setattr("raybench.driver.recorder.MlflowThread", NoMlflow)
    recorder = Recorder(plan.model_dump_json(), str(folder), "", "", "")
    return {trial.trial_id: recorder.attempts.get(trial.trial_id, 0) for trial in plan.trials}


def test_failed_legs_are_withdrawn_kind_by_kind_and_none_is_lost(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, (trial, other) = Ledger(tmp_path / "led"), plan.trials
    outcomes = [MEASUREMENT, Failure("timeout", "too long"), Failure("crashed", "gone"), MEASUREMENT]
    for leg, outcome in zip(trial.legs, outcomes, strict=False):
        ledger.add("s", "quickstart", trial, leg, outcome)
    ledger.add("s", "quickstart", other, other.legs[0], MEASUREMENT)
    before = {row["leg_id"] for row in ledger.rows()}

    assert withdraw_failed(plan, ledger, _kinds("timeout")) == 1
    assert before - ledger.leg_ids() == {trial.legs[1].leg_id}
    assert attempts(plan, tmp_path / "led", monkeypatch) == {trial.trial_id: 1, other.trial_id: 0}
    assert withdraw_failed(plan, ledger, _kinds("failed")) == 1
    assert before - ledger.leg_ids() == {leg.leg_id for leg in trial.legs[1:3]}
    assert withdraw_failed(plan, ledger, _kinds("failed")) == 0
    assert {(row["failure_kind"], row["withdrawn"]) for row in ledger.withdrawn()} == {
        ("timeout", "tried again"), ("crashed", "tried again"),
    }  # fmt: skip


def test_the_kinds_that_a_word_names() -> None:
    assert _kinds("") == frozenset()
    assert _kinds("failed") == frozenset(FAILURE_KINDS)
    assert _kinds("out_of_memory") == {"out_of_memory"}
    with pytest.raises(UserError, match="retry=timeot: did you mean timeout"):
        _kinds("timeot")


def test_a_wrong_word_is_told_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="retry=again"):
        main(["space=quickstart", "retry=again"])
    assert list(tmp_path.iterdir()) == []
