"""A sweep whose ledger is complete runs nothing, and clears away what a driver left that was killed at its very end."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench import sweep
from raybench.declare.space import load_space
from raybench.ledger.dataset import Ledger
from raybench.plan import build_plan
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
