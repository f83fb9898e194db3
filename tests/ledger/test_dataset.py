"""The ledger: the contract's columns, records that come back as they went, files that are whole or not there."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybench.declare.plan import Leg, Trial, build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.ledger.columns import SCHEMA
from raybench.ledger.dataset import Ledger, write_rows
from raybench.ledger.outcome import Failure, Measurement
from raybench.ledger.reading import join_small, read_ledger

MEASUREMENT = Measurement(
    step_seconds=[0.5, 0.25, 0.125],
    warmup_steps=1,
    data_seconds=[0.1, 0.05, 0.025],
    samples_per_step=32,
    peak_device_bytes=None,
    peak_host_bytes=2**33,
    setup_seconds=1.5,
    train_seconds=0.875,
    eval_seconds=0.0,
    first_loss=2.25,
    final_loss=1.75,
    facts={"optimizer": {"betas": [0.9, 0.999]}, "informative": {"größe": 1}},
    environment={"cpu": "x"},
    started_at=1.75e9,
    process_group="g",
)
FAILURE = Failure("crashed", "rank 1: its process died", environment={"node": "n"}, started_at=1.75e9)


def first_leg(number: int = 0) -> tuple[Trial, Leg]:
    return build_plan(*load_space("quickstart")).legs()[number]


def test_a_measurement_comes_back_as_it_went(tmp_path: Path) -> None:
    trial, leg = first_leg()
    written = Ledger(tmp_path).add("s", "quickstart", trial, leg, MEASUREMENT)
    (row,) = pq.read_table(tmp_path).to_pylist()
    assert row == written
    assert row["step_seconds"] == [0.5, 0.25, 0.125]
    assert (row["schema_version"], row["status"], row["failure_kind"]) == (1, "ok", None)
    assert (row["global_batch"], row["micro_batch"], row["accumulation"], row["workers"]) == (32, 16, 1, 2)
    assert row["started_at"].timestamp() == 1.75e9
    assert row["leg_id"] == leg.leg_id
    assert row["forward_seconds"] is None


def test_a_trace_that_cannot_be_written_costs_itself_alone(tmp_path: Path) -> None:
    told = {"parts": {"data": 1.0}, "missing": [], "trace": None, "trace_content": "AAAA"}
    profiled = replace(MEASUREMENT, profile=told)
    for number, (hindered, words) in enumerate([(False, None), (True, "the trace could not be written")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        if hindered:
            (folder / "_traces").write_text("a file where the folder should be")
        row = Ledger(folder).add("s", "quickstart", *first_leg(), profiled)
        profile = json.loads(row["profile"])
        assert "trace_content" not in profile
        assert profile["parts"] == {"data": 1.0}
        assert (profile["trace"] is None) == hindered
        assert [text.partition(":")[0] for text in profile["missing"]] == [words] * hindered


def test_a_failure_has_no_numbers(tmp_path: Path) -> None:
    trial, leg = first_leg()
    Ledger(tmp_path).add("s", "quickstart", trial, leg, FAILURE)
    (row,) = pq.read_table(tmp_path).to_pylist()
    assert (row["status"], row["failure_kind"], row["failure_message"]) == ("failed", "crashed", FAILURE.message)
    for name in ("step_seconds", "data_seconds", "warmup_steps", "first_loss", "peak_host_bytes", "setup_seconds"):
        assert row[name] is None


def test_a_leg_counts_once(tmp_path: Path) -> None:
    trial, leg = first_leg()
    row = Ledger(tmp_path / "a").add("s", "quickstart", trial, leg, MEASUREMENT)
    pq.write_table(pa.Table.from_pylist([{**row, "first_loss": 9.0}], schema=SCHEMA), tmp_path / "z.parquet")
    table = read_ledger(tmp_path)
    assert table.num_rows == 1
    assert table["first_loss"].to_pylist() == [2.25]


def test_many_single_files_become_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(12):
        ledger.add("s", "quickstart", *first_leg(number), MEASUREMENT if number % 3 else FAILURE)
    before = sorted(ledger.rows(), key=lambda row: row["leg_id"])
    assert not ledger.compact(min_files=13)
    single = next(tmp_path.glob("leg-*.parquet")).read_bytes()
    assert ledger.compact(min_files=12)
    assert len(list(tmp_path.iterdir())) == 1
    assert sorted(ledger.rows(), key=lambda row: row["leg_id"]) == before
    (tmp_path / "leg-left.parquet").write_bytes(single)  # as when it stops before the last file is gone
    assert sorted(ledger.rows(), key=lambda row: row["leg_id"]) == before


def test_a_second_merging_leaves_the_first_ones_rows(tmp_path: Path) -> None:
    """Legs that were withdrawn and measured again may give the merged file the same first leg and number of rows."""
    ledger = Ledger(tmp_path)
    for number in range(4):
        ledger.add("s", "quickstart", *first_leg(number), MEASUREMENT)
    first = min(row["leg_id"] for row in ledger.rows())
    assert ledger.compact(min_files=4)
    (again,) = (number for number in range(4) if first_leg(number)[1].leg_id == first)
    ledger.withdraw([first], "again")
    others = [number for number in range(4, 40) if first_leg(number)[1].leg_id > first][:3]
    for number in (again, *others):
        ledger.add("s", "quickstart", *first_leg(number), replace(MEASUREMENT, attempt=1))
    assert ledger.compact(min_files=4)
    assert len(ledger.leg_ids()) == 7


@pytest.mark.parametrize(
    ("sizes", "joined_sizes"),
    [
        ([], []), ([1], [1]), ([1, 2, 300, 1], [3, 300, 1]), ([300, 1, 1], [300, 2]), ([1] * 1030, [512, 512, 6]),
        ([300, 300], [300, 300]),
    ],
)  # fmt: skip
def test_small_tables_are_joined_in_their_order(sizes: list[int], joined_sizes: list[int]) -> None:
    begins = itertools.accumulate(sizes, initial=0)
    tables = [pa.table({"n": list(range(begin, begin + size))}) for begin, size in zip(begins, sizes, strict=False)]
    joined = list(join_small(tables))
    assert [n for table in joined for n in table["n"].to_pylist()] == list(range(sum(sizes)))
    assert [len(table) for table in joined] == joined_sizes
    assert all(table["n"].num_chunks == 1 for table in joined)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, leg = first_leg()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Ledger(tmp_path).add("s", "quickstart", trial, leg, MEASUREMENT)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    trial, leg = first_leg()
    Ledger(tmp_path).add("s", "quickstart", trial, leg, MEASUREMENT)
    file = next(tmp_path.glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[content.index(leg.leg_id.encode())] ^= 0xFF  # in a page, where values lie
    file.write_bytes(content)
    with pytest.raises(UserError, match=file.name):
        read_ledger(tmp_path)


def test_an_empty_folder_has_no_legs(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "nowhere").leg_ids() == set()
    assert not (tmp_path / "nowhere").exists()


def test_rows_that_are_withdrawn_leave_a_compacted_file_too_and_are_kept_aside(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    plan = build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}))
    first, second = plan.trials
    for trial, leg in plan.legs()[:-1]:
        ledger.add("s", "quickstart", trial, leg, MEASUREMENT)
    assert ledger.compact(min_files=2)
    ledger.add("s", "quickstart", second, second.legs[-1], MEASUREMENT)
    before = {row["leg_id"]: row for row in ledger.rows()}
    gone = [leg.leg_id for leg in second.legs]
    assert {row["leg_id"] for row in ledger.withdraw(gone, "another machine")} == set(gone)
    kept = [leg.leg_id for leg in first.legs]
    assert {row["leg_id"]: row for row in ledger.rows()} == {leg_id: before[leg_id] for leg_id in kept}
    aside = {row["leg_id"]: row for row in ledger.withdrawn()}
    assert aside == {leg_id: {**before[leg_id], "withdrawn": "another machine"} for leg_id in gone}
    assert ledger.withdraw(gone, "again") == []
    assert [file.name for file in (tmp_path / "_aside").iterdir()] == [f"trial-{second.trial_id}-attempt-0.parquet"]


def test_a_withdrawal_that_was_cut_is_ended_and_what_was_measured_since_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    trial, leg = first_leg()
    row = ledger.add("s", "quickstart", trial, leg, MEASUREMENT)
    write_rows(tmp_path / "_aside", f"trial-{trial.trial_id}-attempt-0", [{**row, "withdrawn": "why"}])
    assert ledger.set_aside() == []
    assert ledger.rows() == []
    ledger.add("s", "quickstart", trial, leg, replace(MEASUREMENT, attempt=1))
    ledger.finish_withdrawals()
    assert [row["attempt"] for row in ledger.rows()] == [1]
    assert [row["attempt"] for row in ledger.withdrawn()] == [0]
