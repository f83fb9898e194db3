"""Ledgers that cannot be: one clear line that names file and leg, never a traceback, never a smaller sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybench.analysis import analyse
from raybench.errors import UserError
from raybench.show.findings import commands
from tests.analysis.ledgers import SCHEMA, leg, paired, write

RATIOS = [1.10, 1.12, 1.08]


def refused(path: Path, **question: Any) -> str:
    with pytest.raises(UserError) as error:
        analyse([path], **question)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"step_seconds": [9.0, 1.0, 0.0]}, "has 0.0 in step_seconds at step 2; seconds must be above 0"),
        ({"step_seconds": [9.0, -1.0, 1.0]}, "has -1.0 in step_seconds at step 1"),
        ({"step_seconds": [9.0, float("nan"), 1.0]}, "has nan in step_seconds at step 1"),
        ({"step_seconds": [9.0, float("inf"), 1.0]}, "has inf in step_seconds at step 1"),
        ({"step_seconds": [9.0, None, 1.0]}, "has nan in step_seconds at step 1"),
        ({"step_seconds": [0.0, 1.0, 1.0]}, "has 0.0 in step_seconds at step 0"),
        ({"step_seconds": None}, "is `ok` but has no step_seconds"),
        ({"step_seconds": []}, "has 0 step_seconds and 1 warmup_steps, so nothing is measured"),
        ({"warmup_steps": 3}, "has 3 step_seconds and 3 warmup_steps, so nothing is measured"),
        ({"warmup_steps": -1}, "is `ok` but has no warmup_steps of 0 or more"),
        ({"warmup_steps": None}, "is `ok` but has no warmup_steps of 0 or more"),
        ({"data_seconds": [0.0, 0.0]}, "has 3 step_seconds but 2 data_seconds"),
        ({"data_seconds": [0.0, -1.0, 0.0]}, "has -1.0 in data_seconds at step 1"),
        ({"status": "fine"}, "has status 'fine' instead of 'ok' or 'failed'"),
    ],
)
def test_a_leg_that_no_run_can_have_written(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    rows = paired(RATIOS)
    path = write(tmp_path / "legs.parquet", [*rows[:4], {**rows[4], **columns}, rows[5]])
    message = refused(path)
    assert reason in message
    assert message.startswith(f"{path}: leg s0-2-ddp-0 (ddp, net s0) ")


def test_the_file_of_a_bad_leg_is_named_among_many(tmp_path: Path) -> None:
    for number, row in enumerate(paired(RATIOS)):
        bad = {"warmup_steps": 7} if number == 3 else {}
        write(tmp_path / f"leg-{number}.parquet", [{**row, **bad}])
    assert refused(tmp_path).startswith(f"{tmp_path / 'leg-3.parquet'}: leg s0-1-zero1-0")


def test_values_of_a_failed_leg_are_not_looked_at(tmp_path: Path) -> None:
    odd = leg("zero1", 3, failure_kind="error") | {"step_seconds": [-1.0], "data_seconds": [], "warmup_steps": None}
    path = write(tmp_path / "legs.parquet", [*paired(RATIOS), leg("ddp", 3), odd])
    assert analyse([path]).comparisons[0].n_trials == 3


def test_missing_data_seconds_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", paired(RATIOS, data_seconds=None))
    assert analyse([path]).comparisons[0].n_trials == 3


def test_what_is_no_ledger(tmp_path: Path) -> None:
    assert "no such ledger" in refused(tmp_path / "nowhere")
    assert "no *.parquet file" in refused(tmp_path)
    text = tmp_path / "a.parquet"
    text.write_text("not parquet")
    assert f"{text}: not a readable Parquet file" in refused(text)
    text.write_bytes(b"")
    assert "not a readable Parquet file" in refused(text)
    whole = write(tmp_path / "b" / "legs.parquet", paired(RATIOS))
    whole.write_bytes(whole.read_bytes()[:-200])
    assert f"{whole}: not a readable Parquet file" in refused(whole)
    assert "no leg in it" in refused(write(tmp_path / "c" / "legs.parquet", []))


def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "legs.parquet"
    table = pa.Table.from_pylist(paired([1.1] * 200), schema=SCHEMA)
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(b"s0-77-zero1-0") + 3] ^= 1
    path.write_bytes(bytes(content))
    assert "not a readable Parquet file" in refused(path)


def test_schema_versions_and_columns(tmp_path: Path) -> None:
    other = write(tmp_path / "v.parquet", paired(RATIOS, schema_version=2))
    assert f"{other}: schema_version 2 is not known" in refused(other)
    mixed = write(tmp_path / "m.parquet", [*paired(RATIOS), leg("ddp", 9, schema_version=7)])
    assert "schema_version 7 is not known" in refused(mixed)
    less = tmp_path / "l.parquet"
    pq.write_table(pa.Table.from_pylist(paired(RATIOS), schema=SCHEMA).drop_columns(["warmup_steps"]), less)
    assert f"{less}: column 'warmup_steps' is missing" in refused(less)


def test_the_baseline_must_be_one(tmp_path: Path) -> None:
    none = write(tmp_path / "n.parquet", paired(RATIOS, is_baseline=False))
    assert "no leg is marked as the baseline's; give baseline=ARM, one of: ddp, zero1" in refused(none)
    assert analyse([none], baseline="ddp").comparisons[0].arm == "zero1"
    both = write(tmp_path / "b.parquet", paired(RATIOS, is_baseline=True))
    assert "several arms are marked as the baseline, ddp and zero1; give baseline=ARM" in refused(both)
    assert "baseline=fsdp: no leg of that arm; the arms are: ddp, zero1" in refused(both, baseline="fsdp")


def test_questions_that_make_no_sense(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "legs.parquet", paired(RATIOS))
    assert "margin=0 must lie between 0 and 1" in refused(path, margin=0.0)
    assert "alpha=0.7 must lie between 0 and 0.5" in refused(path, alpha=0.7)
    assert "margin=nan" in refused(path, margin=float("nan"))
    assert "quality_margin=-5 must lie between 0 and 1" in refused(path, quality_margin=-5.0)
    assert "metric=speed" in refused(path, metric="speed")
    assert "by=colour" in refused(path, by="colour")
    (path.parent / "_space.yaml").write_text("question: {margin: wide}")
    assert "margin: 'wide' in the ledger's _space.yaml is no number" in refused(path)
    (path.parent / "_space.yaml").write_text("a: [")
    assert "cannot be read as YAML" in refused(path)
    (path.parent / "_space.yaml").write_text("question: {margin: 0.1}")
    other = write(tmp_path / "b" / "legs.parquet", paired(RATIOS))
    (other.parent / "_space.yaml").write_text("question: {margin: 0.2}")
    with pytest.raises(UserError, match=r"different questions, margin 0\.1 and 0\.2; give margin="):
        analyse([path, other])
    for folder, most in ((path.parent, 0.01), (other.parent, 0.02)):
        (folder / "_space.yaml").write_text(f"question: {{quality_margin: {most}}}")
    with pytest.raises(UserError, match=r"quality_margin 0\.01 and 0\.02; give quality_margin="):
        analyse([path, other])
    *_, command = commands(analyse([path, other], quality_margin=0.05), [path, other])
    assert command.endswith("quality_margin=0.05")


def test_a_metric_that_nobody_measured(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", paired(RATIOS))
    assert "metric=peak_device_bytes: no measured leg" in refused(path, metric="peak_device_bytes")
    assert analyse([path], metric="train_seconds").comparisons[0].speedup.value == pytest.approx(1.1, rel=1e-2)


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    """Wide integers, nanoseconds, columns that are all null, texts of another Arrow type."""
    import pandas as pd

    path = tmp_path / "legs.parquet"
    pd.DataFrame(paired(RATIOS), columns=SCHEMA.names).to_parquet(path)
    assert pq.read_schema(path) != SCHEMA
    assert analyse([path]).comparisons[0].n_trials == 3


def test_nulls_where_a_name_must_stand(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", [*paired(RATIOS), leg("zero1", 5) | {"arm": None}])
    assert f"{path}: row 6 has no arm" in refused(path)


# ---- the command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raybench.analysis", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_json_and_nothing_else_and_the_same_bytes_again(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", paired(RATIOS))
    one, two = run(str(path), "--json", "margin=0.01"), run(str(path), "--json", "margin=0.01")
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == two.stdout
    found = json.loads(one.stdout, parse_constant=lambda word: pytest.fail(word))
    assert found["schema_version"] == 1
    assert (found["margin"], found["alpha"], found["baseline"]) == (0.01, 0.05, "ddp")
    assert set(found["comparisons"][0]) >= {
        "setting_id", "setting", "model", "family", "arm", "n_trials", "speedup", "ci_low", "ci_high", "p_value",
        "p_adjusted", "verdict", "trials_needed", "failures", "memory_ratio", "accuracy_difference", "caveats",
    }  # fmt: skip
    assert set(found["arms"][0]) >= {
        "arm", "n_settings", "geometric_mean", "ci_low", "ci_high", "prediction_low", "prediction_high", "helps",
        "no_effect", "hurts", "undecided", "unlocks", "blocked",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such ledger"),
        ([], "LEDGER is missing"),
        (["margin=x", "LEDGER"], "margin=x is not a number"),
        (["colour=red", "LEDGER"], "unknown key colour="),
        (["--jsn", "LEDGER"], "did you mean --json or"),
        (["--json", "--csv", "LEDGER"], "--json and --csv: give one of them"),
    ],
)
def test_bad_commands_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    path = write(tmp_path / "legs.parquet", paired(RATIOS))
    done = run(*(str(path) if argument == "LEDGER" else argument for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("raybench: ")
    assert message in done.stderr


def test_no_heavy_import_not_even_by_way_of_others() -> None:
    code = (
        "import sys, raybench.analysis.__main__, raybench.show.terminal, raybench.show.tables;"
        "print([m for m in ('ray', 'torch', 'mlflow', 'pandas', 'statsmodels', 'omegaconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
