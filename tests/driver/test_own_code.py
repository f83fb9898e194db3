"""Code that changed after its legs were measured is named, and what failed is told, where a sweep is resumed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.own_code import changed_since
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure
from raybench.sweep import _cautions
from tests.ledger.test_dataset import MEASUREMENT

SPACE = """
setting: {workers: 2}
arms:
  plain: {engine: script, command: "torchrun train.py --steps {total_steps}"}
  zero2: {engine: script, command: "torchrun train.py --deepspeed=ds.json --steps {total_steps}"}
protocol: {warmup_steps: 2, steps: 4, rounds: 1}
repeats: 2
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    for name, text in (("space.yaml", SPACE), ("train.py", ""), ("ds.json", "{}")):
        Path(name).write_text(text)
    return build_plan(*load_space("space.yaml"), sweep="s")


def test_a_script_and_its_config_that_changed_are_named(plan: Plan) -> None:
    began = dict.fromkeys(("plain", "zero2"), time.time() + 1)
    assert changed_since(plan, began) == []
    os.utime("ds.json", (time.time() + 9, time.time() + 9))
    assert changed_since(plan, began) == ["ds.json"]
    assert changed_since(plan, {"plain": began["plain"]}) == []  # no leg of zero2 is there
    os.utime("train.py", (time.time() + 9, time.time() + 9))
    assert changed_since(plan, began) == ["train.py", "ds.json"]


def test_who_resumes_is_told_of_changed_files_and_failed_legs(plan: Plan, tmp_path: Path) -> None:
    ledger, (trial, other) = Ledger(tmp_path / "led"), plan.trials
    ledger.add("s", "space", trial, trial.legs[0], replace(MEASUREMENT, started_at=time.time() + 1))
    assert list(_cautions(plan, ledger)) == []
    ledger.add("s", "space", other, other.legs[0], Failure("error", "exit code 1", started_at=time.time()))
    os.utime("train.py", (time.time() + 99, time.time() + 99))
    changed, failed = _cautions(plan, ledger)
    assert changed.startswith("train.py is newer than legs measured with it")
    assert failed == "1 leg failed earlier, and failed legs do not run again without retry=failed"
