"""What a ledger and its report claim is computed again, and every change of either is named."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from raybench.analysis import analyse
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.ledger.dataset import Ledger, write_rows
from raybench.show.report_files import write_report
from raybench.verify import main
from tests.ledger.test_dataset import MEASUREMENT

MILLISECONDS = {"ddp": 100.0, "zero1": 104.0, "zero3": 150.0}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "v"
    name, space = load_space("quickstart", {"setting.model": "lenet", "repeats": "2"})
    ledger = Ledger(folder)
    for trial, leg in build_plan(name, space).legs():
        step = MILLISECONDS[leg.arm_name] / 1e3 * (1 + 0.01 * trial.repeat)
        steps = [2 * step, *[step] * 4]
        measured = replace(MEASUREMENT, step_seconds=steps, data_seconds=[0.0] * 5, train_seconds=sum(steps))
        ledger.add("v", name, trial, leg, measured)
    ledger.write_space(yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False))
    write_report(analyse([folder]), [folder], folder / "_report")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "v"))


def verified(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = main([str(folder), *flags])
    return code, capsys.readouterr().out


def changed(folder: Path, **values: object) -> str:
    """Give the first row of the first file other values; returns its leg."""
    file = sorted(folder.glob("*.parquet"))[0]
    (row,) = pq.read_table(file).to_pylist()
    write_rows(folder, file.stem, [row | values])
    return str(row["leg_id"])


def test_what_nobody_touched_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = verified(folder, capsys)
    assert code == 0, out
    assert [line.split() for line in out.splitlines()[:4]] == [[p, "holds"] for p in ("files", "rows", "ids", "report")]


def test_it_holds_when_compacted_and_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ledger(folder).compact(min_files=2)
    assert verified(folder, capsys)[0] == 0


def test_a_report_over_ledgers_of_two_folders_holds(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (Path(shutil.copytree(original, tmp_path / name)) for name in ("cnns/v", "vits/v"))
    write_report(analyse([one, other]), [one, other], one / "_report")
    code, out = verified(one, capsys)
    assert code == 0, out


def test_a_report_that_cannot_be_computed_again_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "_report" / "report.json"
    stored = json.loads(file.read_text())
    stored["analysis"]["baseline"] = "nobody"
    file.write_text(json.dumps(stored))
    code, out = verified(folder, capsys)
    assert code == 1
    assert "report.json: cannot be computed again: " in out


def test_another_number_in_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(folder, step_seconds=[0.2, 0.2, 0.2, 0.2, 0.3])
    code, out = verified(folder, capsys)
    assert code == 1
    assert ".speedup: the report says" in out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": 7}, "seed is 7, but the space gives"),
        ({"arm": "zero9"}, "arm is 'zero9'"),
        ({"position": 99}, "stands at position 99, out of order"),
        ({"setup_seconds": -1.0}, "setup_seconds is -1.0 s"),
        ({"leg_id": "0123456789abcdef"}, "the space has no leg of this id"),
        ({"repeat": 2**31 - 1}, "repeat is 2147483647"),
        ({"micro_batch": 3}, "global_batch is not micro_batch x accumulation x workers"),
        ({"step_seconds": [1.0, -1.0, 1.0, 1.0, 1.0]}, "a step_seconds that is no positive number"),
        ({"step_seconds": None}, "1 warm-up steps of 0"),
        ({"status": "failed"}, "failure_kind None is none of"),
        ({"status": "fine"}, "status 'fine' is neither ok nor failed"),
    ],
)
def test_a_row_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], values: dict[str, object], words: str
) -> None:
    leg = changed(folder, **values)
    code, out = verified(folder, capsys)
    assert code == 1
    assert words in out
    assert values.get("leg_id", leg) in out


def test_two_outcomes_of_one_leg(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Ledger(folder).rows()
    write_rows(folder, "zz", [rows[0], rows[1] | {"final_loss": 0.0}])
    out = verified(folder, capsys)[1]
    assert f"leg {rows[1]['leg_id']}: two rows that differ in final_loss" in out
    assert rows[0]["leg_id"] not in out


@pytest.mark.parametrize("name", ["report.html", "summary.md", "comparisons.csv", "figures/forest.svg"])
def test_a_report_that_was_touched(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    file = folder / "_report" / name
    file.write_bytes(file.read_bytes().replace(b"0.9", b"1.9", 1) + b" ")
    code, out = verified(folder, capsys)
    assert code == 1
    assert f"{name} is not as it was written" in out


def test_a_stored_number_that_was_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "_report/report.json"
    stored = json.loads(file.read_text())
    stored["analysis"]["comparisons"][0]["speedup"] *= 1.0001
    file.write_text(json.dumps(stored))
    assert "comparisons[0].speedup: the report says" in verified(folder, capsys)[1]


@pytest.mark.parametrize("text", ["{}", "nothing", '{"analysis": 3, "sha256": {}}', '{"analysis": {}, "sha256": 1}'])
def test_a_report_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (folder / "_report/report.json").write_text(text)
    assert "not what a report stores" in verified(folder, capsys)[1]


def test_torn_and_foreign_files_are_named_then_set_aside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn, other = sorted(folder.glob("*.parquet"))[:2]
    torn.write_bytes(torn.read_bytes()[:-20])
    step = struct.pack("<d", pq.read_table(other)["step_seconds"][0].as_py()[1])
    other.write_bytes(other.read_bytes().replace(step, step[:1] + b"\x00" + step[2:]))  # a number, slightly another
    pq.write_table(pq.read_table(sorted(folder.glob("*.parquet"))[2], columns=["arm"]), folder / "foreign.parquet")
    code, out = verified(folder, capsys)
    assert code == 1
    assert all(f"{folder / file.name}: " in out for file in (torn, other, Path("foreign.parquet")))

    code, out = verified(folder, capsys, "--set-aside")
    assert code == 1, "the report counts legs that are gone"
    assert next(line for line in out.splitlines() if line.startswith("files")).endswith("holds")
    aside = {file.name for file in (folder / "_aside").iterdir()}
    assert aside == {f"{torn.name}.damaged", f"{other.name}.damaged", "foreign.parquet.damaged"}
    assert len(Ledger(folder).leg_ids()) == len(pq.read_table(folder)) == 10


def test_a_ledger_of_a_newer_version_is_left_alone(folder: Path) -> None:
    changed(folder, schema_version=2)
    with pytest.raises(Exception, match="schema_version 2 is not known"):
        Ledger(folder).set_aside()
    assert not (folder / "_aside").exists()


def test_a_trial_that_is_half_from_one_machine_and_half_from_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, file in enumerate(sorted(folder.glob("leg-*.parquet"))):
        (row,) = pq.read_table(file).to_pylist()
        node = "south" if number == 0 else "north"
        write_rows(folder, file.stem, [row | {"placement": json.dumps([{"node": node, "gpus": []}] * 2)}])
    code, out = verified(folder, capsys)
    assert code == 1
    (line,) = (line for line in out.splitlines() if "its legs were measured at 2 places" in line)
    assert "north" in line
    assert "south" in line
    changed(folder, placement="nowhere")
    assert "placement 'nowhere' is not valid" in verified(folder, capsys)[1]
