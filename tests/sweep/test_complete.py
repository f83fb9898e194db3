"""A sweep's end: a complete one runs nothing and clears away what a killed driver left, an incomplete one says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raybench import sweep
from raybench.analysis.stopping import Stopping
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.errors import Interrupted
from raybench.ledger.dataset import Ledger
from tests.ledger.test_dataset import MEASUREMENT


def test_what_a_killed_driver_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"setting.model": "lenet", "repeats": "2"}
    plan = build_plan(*load_space("quickstart", changes), sweep="s")
    ledger = Ledger(tmp_path / "mlruns/ledger/quickstart/s")
    for trial, leg in plan.legs():
        ledger.add(plan.sweep, plan.space, trial, leg, MEASUREMENT)
    left = tmp_path / "mlruns/ledger/quickstart/.ray-s"
    (left / "tune").mkdir(parents=True)
    assert sweep.main(["space=quickstart", "sweep=s", *(f"{key}={value}" for key, value in changes.items())]) == 0
    assert f"{len(plan.legs())} of {len(plan.legs())} legs are in the ledger; 0 to run" in capsys.readouterr().out
    assert not left.exists()


def test_trials_that_could_not_run_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody who starts a sweep in a script must not take half a plan for all of it; failed legs are outcomes."""
    monkeypatch.chdir(tmp_path)
    words = ["space=quickstart", "sweep=s", "setting.model=lenet", "repeats=2"]
    plan = build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}), sweep="s")
    there, lacking = plan.trials
    for leg in there.legs:
        Ledger(tmp_path / "mlruns/ledger/quickstart/s").add(plan.sweep, plan.space, there, leg, MEASUREMENT)
    why = f"{lacking.label}, repeat {lacking.repeat}: 1 node with 2 CPUs did not become available within 18 s"
    monkeypatch.setattr(sweep, "_run_missing", lambda *_: [why])
    monkeypatch.setattr(sweep, "_publish", lambda *_: None)
    with pytest.raises(Interrupted) as ended:
        sweep.main(words)
    assert ended.value.exit_code == 1
    assert str(ended.value) == (
        "1 of 2 trials could not be run to their end; what was measured is kept, and the same command again runs what "
        f"is missing: python -m raybench.sweep {' '.join(words)}"
    )
    told = capsys.readouterr().out
    assert f"not run: {why}" in told
    assert "python -m raybench.analysis" in told, "what was measured is shown all the same"


def test_a_sweep_that_is_settled_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `repeats: {min, max}`, trials that no look asks for are not told as still to run."""
    monkeypatch.chdir(tmp_path)
    changes = {"setting.model": "lenet", "repeats": "{min: 3, max: 8}"}
    name, space = load_space("quickstart", changes)
    plan = build_plan(name, space, sweep="s")
    folder = tmp_path / "mlruns/ledger/quickstart/s"
    three = [(trial, leg) for trial, leg in plan.legs() if trial.repeat < 3]
    for number, (trial, leg) in enumerate(three):
        factor = (1 if leg.is_baseline else 3) * (1 + 0.001 * number)
        steps = [factor * seconds for seconds in MEASUREMENT.step_seconds]
        data = [factor * seconds for seconds in MEASUREMENT.data_seconds]
        taken = replace(
            MEASUREMENT,
            step_seconds=steps,
            data_seconds=data,
            train_seconds=sum(steps),
            process_group=trial.trial_id,
            started_at=MEASUREMENT.started_at + 10 * number,
        )
        Ledger(folder).add(plan.sweep, plan.space, trial, leg, taken)
    words = ["space=quickstart", "sweep=s", *(f"{key}={value}" for key, value in changes.items())]
    stopping = Stopping.of("repeats: {min: 3, max: 8}", folder)
    assert stopping is not None
    record = stopping.look()
    assert record is not None
    assert stopping.wanted([trial.setting_id for trial in plan.trials]) == {}, record
    assert sweep.main(words) == 0
    told = capsys.readouterr().out
    assert f"resumed: {len(three)} of {len(plan.legs())} legs are in the ledger; all is settled" in told
