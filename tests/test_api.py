"""The flat surface for Python and notebooks: the same answers as the commands give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from IPython.lib.pretty import pretty

from raybench import api
from raybench.__main__ import main
from raybench.errors import UserError
from tests.conftest import ROOT, command_environment

LEDGER = ROOT / "results/zero/small"


def test_the_surface_is_flat_and_light() -> None:
    script = """
import sys
from raybench import Answer, Outlook, analyse, plan, read_ledger, run
assert callable(plan), plan
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "ray", "deepspeed", "mlflow", "pandas"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=command_environment(), check=True
    )
    assert done.stdout.split() == []


def test_an_analysis_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    answer = api.analyse(str(LEDGER), margin=0.05)
    main(["analysis", str(LEDGER), "margin=0.05", "--json"])
    assert json.loads(capsys.readouterr().out) == answer.to_json()
    table = answer.to_pandas()
    assert len(table) == len(answer.comparisons)
    assert {"setting", "arm", "speedup", "verdict"} <= set(table.columns)
    assert answer.comparisons[0].arm in answer._repr_html_()
    assert answer.comparisons[0].arm in str(answer)
    assert pretty(answer).rstrip() == str(answer).rstrip()  # IPython in a terminal: not the fields of a dataclass


def test_the_rows_are_the_ledgers() -> None:
    rows = api.read_ledger([LEDGER], ["leg_id", "arm"])
    assert rows.num_rows == 264
    assert rows.column_names == ["leg_id", "arm"]


def test_a_plan_takes_what_the_command_line_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outlook = api.plan("lenet", size="small", repeats=2, setting={"batch_size": [8, 16], "optimizer": {"lr": 1e-4}})
    settings = {trial.setting_id: trial.setting for trial in outlook.plan.trials}
    assert {setting.batch_size for setting in settings.values()} == {8, 16}
    assert {setting.optimizer.lr for setting in settings.values()} == {1e-4}
    assert "lenet" in outlook._repr_html_()
    assert pretty(outlook).startswith("lenet: ")
    with pytest.raises(UserError, match="did you mean quickstart"):
        api.plan("quikstart")
