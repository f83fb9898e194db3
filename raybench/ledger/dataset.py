"""The ledger: a Parquet dataset with one row a leg, the source of truth of a sweep. This is its write side.

Files appear whole (written aside, flushed to disk, then renamed; in a store by one upload), with page checksums that
reading verifies. Imports pyarrow, but no ray, torch or mlflow.
"""

from __future__ import annotations

import base64
import contextlib
import os
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.errors import DamagedFile, StorageError, UserError
from raybench.ledger.columns import SCHEMA, build_row
from raybench.ledger.outcome import Measurement, Outcome
from raybench.ledger.quantities import Row
from raybench.ledger.reading import (
    num_readers,
    parquet_files,
    read_file,
    read_files,
    read_ledger,
    scan_file,
    scan_files,
)
from raybench.stores.storage import AnyPath, files_below, write_whole

if TYPE_CHECKING:
    from raybench.declare.plan import Leg, Plan, Trial

TRACES = "_traces"  # profiler traces, LEG_ID.json.gz, for chrome://tracing and Perfetto
ASIDE = "_aside"  # files that do not count: unreadable ones, and rows of trials that began anew


def write_rows(folder: AnyPath, name: str, rows: list[Row]) -> AnyPath:
    """Write rows as `folder/name.parquet`, whole or not at all; durable when this returns.

    Raises StorageError where a store still refuses them after waiting.
    """
    return _write_table(folder, name, pa.Table.from_pylist(rows, schema=SCHEMA))


def _write_table(folder: AnyPath, name: str, table: pa.Table) -> AnyPath:
    # A file with one leg is read faster uncompressed; many legs are worth compressing.
    options = {"compression": "zstd" if len(table) > 1 else "none", "write_page_checksum": True}
    if not isinstance(folder, Path):
        content = pa.BufferOutputStream()
        pq.write_table(table, content, **options)
        remote = folder / f"{name}.parquet"
        remote.write_bytes(content.getvalue())
        return remote
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{name}.parquet"
    aside = folder / f".{name}.{os.getpid()}.writing"
    try:
        pq.write_table(table, aside, **options)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(final)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return final


def held_legs(plan: Plan, folder: AnyPath, rows: list[Row], remedy: str) -> list[Row]:
    """The rows of the legs that the plan shares with a ledger, in the plan's order.

    `rows` have at least setting_id, repeat, arm, round, leg_id and is_baseline. Raises UserError, with the `remedy`,
    where a leg was measured differently: another protocol, seed, isolation, baseline or arm configuration.
    """
    by_place = {(row["setting_id"], row["repeat"], row["arm"], row["round"]): row for row in rows}
    held = []
    for trial, leg in plan.legs():
        row = by_place.get((trial.setting_id, trial.repeat, leg.arm_name, leg.round))
        if row is None:
            continue
        if (row["leg_id"], row["is_baseline"]) != (leg.leg_id, leg.is_baseline):
            raise UserError(
                f"sweep={plan.sweep}: {folder} holds {trial.label!r}, arm {leg.arm_name!r}, with another protocol, "
                f"seed, isolation, baseline or arm configuration than this space has; {remedy}"
            )
        held.append(row)
    return held


class Ledger:
    """The write side of one sweep's ledger: a folder with one file a leg, until they are compacted."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder.absolute()

    def leg_ids(self) -> set[str]:
        """The legs that have an outcome here; empty where the folder does not exist yet."""
        return {row["leg_id"] for row in self.rows(["leg_id"])}

    def rows(self, columns: list[str] | None = None) -> list[Row]:
        """Every row here (or some of its columns) as plain values; empty where there is no folder yet."""
        if not parquet_files(self.folder):
            return []
        rows: list[Row] = read_ledger(self.folder, columns).to_pylist()
        return rows

    def set_aside(self) -> list[str]:
        """Move unreadable files to `_aside/` as NAME.parquet.damaged. Returns a line about each.

        Their legs then have no outcome and run again. A file of a newer version stays and raises UserError. Also
        finishes an interrupted withdrawal.
        """
        told = []
        files = [*parquet_files(self.folder), *_withdrawn_files(self.folder)]
        with ThreadPoolExecutor(num_readers(files)) as pool:
            for file, damage in zip(files, pool.map(_damage, files), strict=True):
                if damage is not None:
                    aside: Any = self.folder / ASIDE / f"{file.name}.damaged"
                    aside.parent.mkdir(exist_ok=True)
                    file.replace(aside)
                    told.append(f"{damage}; set aside as {aside}")
        self.finish_withdrawals()
        if isinstance(self.folder, Path):
            for cut in self.folder.glob(".*.writing"):  # the writer died
                cut.unlink(missing_ok=True)
        return told

    def write_space(self, text: str) -> None:
        """Write the resolved space beside the rows: `space=<folder>/_space.yaml` runs the same again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "_space.yaml", text)

    def add(self, sweep: str, space: str, trial: Trial, leg: Leg, outcome: Outcome) -> Row:
        """Write a leg's row, durable when this returns. Returns the row.

        A profiled leg's trace becomes a file in `_traces/`, before the row that names it.
        """
        outcome = self._with_trace_apart(leg, outcome)
        row = build_row(sweep, space, trial, leg, outcome)
        write_rows(self.folder, f"leg-{leg.leg_id}", [row])
        return row

    def _with_trace_apart(self, leg: Leg, outcome: Outcome) -> Outcome:
        profile = dict(getattr(outcome, "profile", None) or {})
        content = profile.pop("trace_content", None)
        if content is None or not isinstance(outcome, Measurement):
            return outcome
        name = f"{leg.leg_id}.json.gz"
        try:
            (self.folder / TRACES).mkdir(parents=True, exist_ok=True)
            (self.folder / TRACES / name).write_bytes(base64.b64decode(content))
            profile["trace"] = name
        except (OSError, StorageError) as error:  # the row matters more
            with contextlib.suppress(OSError, StorageError):  # a partial trace
                (self.folder / TRACES / name).unlink(missing_ok=True)
            profile["missing"] = [*profile.get("missing", ()), f"the trace could not be written: {error}"]
        return replace(outcome, profile=profile)

    def withdraw(self, leg_ids: Collection[str], why: str) -> list[Row]:
        """Move rows of one trial to `_aside/`, where they are kept but do not count: their legs run again.

        They are first written there durably, one file per trial and attempt with `why` in the column `withdrawn`, and
        then removed from the ledger. Returns them. `finish_withdrawals` finishes an interrupted withdrawal.
        """
        rows = [row for row in self.rows() if row["leg_id"] in leg_ids]
        if rows:
            attempt = max(row.get("attempt") or 0 for row in rows)
            name = f"trial-{rows[0]['trial_id']}-attempt-{attempt}"
            times = sum(file.stem.startswith(name) for file in _withdrawn_files(self.folder))
            name = f"{name}-{times}" if times else name  # withdrawn before: legs of this attempt failed again
            write_rows(self.folder / ASIDE, name, [{**row, "withdrawn": why} for row in rows])
            self._remove({row["leg_id"] for row in rows})
        return rows

    def withdrawn(self) -> list[Row]:
        """Every withdrawn row, of every attempt."""
        return [row for file in _withdrawn_files(self.folder) for row in read_file(file).to_pylist()]

    def attempts(self) -> dict[str, int]:
        """The number of the present attempt, by trial_id, of trials that began anew."""
        attempts: dict[str, int] = {}
        for row in self.withdrawn():
            attempts[row["trial_id"]] = max(attempts.get(row["trial_id"], 0), (row["attempt"] or 0) + 1)
        return attempts

    def finish_withdrawals(self) -> None:
        """Remove from the ledger the rows that are already in `_aside/`: a withdrawal was interrupted."""
        aside = {(row["leg_id"], row["attempt"] or 0) for row in self.withdrawn()}
        if aside:
            rows = self.rows(["leg_id", "attempt"])
            self._remove({row["leg_id"] for row in rows if (row["leg_id"], row.get("attempt") or 0) in aside})

    def _remove(self, leg_ids: set[str]) -> None:
        """Rewrite the files that hold these legs without them; delete files that hold no others."""
        tables = scan_files(parquet_files(self.folder), ["leg_id"])
        holding = [file for file, table in tables if not leg_ids.isdisjoint(table["leg_id"].to_pylist())]
        for file in dict.fromkeys(holding):
            kept = [row for row in read_file(file).to_pylist() if row["leg_id"] not in leg_ids]
            if kept:
                write_rows(file.parent, file.stem, kept)
            else:
                file.unlink()

    def compact(self, min_files: int = 100) -> bool:
        """Merge single-leg files into one, if there are `min_files` or more. Returns whether it did.

        The merged file is durable before the others are deleted; a leg in both counts once.
        """
        singles = [file for names, file in files_below(self.folder, "leg-*.parquet") if len(names) == 1]
        if len(singles) < min_files:
            return False
        merged = read_files(singles)
        columns = [
            merged[field.name] if field.name in merged.column_names else pa.nulls(len(merged), field.type)
            for field in SCHEMA
        ]
        # Not the name of an earlier one, which may begin with the same leg and be as long.
        name = f"legs-{singles[0].stem.removeprefix('leg-')}-{uuid.uuid4().hex[:8]}-{len(merged)}"
        _write_table(self.folder, name, pa.table(columns, schema=SCHEMA))
        with ThreadPoolExecutor(num_readers(singles)) as pool:
            for _ in pool.map(lambda file: file.unlink(missing_ok=True), singles):
                pass
        return True


def _withdrawn_files(folder: AnyPath) -> list[AnyPath]:
    return [file for names, file in files_below(folder / ASIDE, "trial-*.parquet") if len(names) == 1]


def _damage(file: AnyPath) -> DamagedFile | None:
    """What is wrong with a file, after reading all of it; None where nothing is."""
    try:
        for _ in scan_file(file):
            pass
    except DamagedFile as error:
        return error
    return None
