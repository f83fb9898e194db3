"""The ledger: a Parquet dataset with one row a leg, the source of truth of a sweep.

An open format, version 1: pyarrow, pandas, polars or DuckDB alone read it. Files appear whole (written
aside, flushed to disk, then renamed; in a store one upload), and carry page checksums that reading verifies. Raw
values only: every mean and percentile is derived by `raybench.analysis`. Imports pyarrow, and no ray, torch or mlflow.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raybench.errors import UserError
from raybench.ledger.storage import AnyPath, files_below, readable, write_whole
from raybench.outcome import Failure, Measurement, Outcome

if TYPE_CHECKING:
    from raybench.plan import Leg, Trial

SCHEMA_VERSION = 1
ASIDE = "_aside"  # where a ledger keeps what does not count: unreadable files, and rows of trials that began anew
_FLOATS = pa.list_(pa.float64())


class DamagedFile(UserError):
    """A `*.parquet` file that is torn or damaged, or that is none of a ledger's."""


# The columns that version 1 promises; a reader may rely on each of them.
CONTRACT = pa.schema(
    [
        pa.field("schema_version", pa.int32(), nullable=False),
        ("sweep", pa.string()),
        ("space", pa.string()),
        ("setting_id", pa.string()),
        ("trial_id", pa.string()),
        ("leg_id", pa.string()),
        ("setting", pa.string()),
        ("model", pa.string()),
        ("family", pa.string()),
        ("dataset", pa.string()),
        ("precision", pa.string()),
        ("global_batch", pa.int32()),
        ("micro_batch", pa.int32()),
        ("accumulation", pa.int32()),
        ("workers", pa.int32()),
        ("arm", pa.string()),
        ("engine", pa.string()),
        ("arm_config", pa.string()),
        ("is_baseline", pa.bool_()),
        ("repeat", pa.int32()),
        ("round", pa.int32()),
        ("position", pa.int32()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("failure_kind", pa.string()),
        ("failure_message", pa.string()),
        ("step_seconds", _FLOATS),
        ("warmup_steps", pa.int32()),
        ("data_seconds", _FLOATS),
        ("samples_per_step", pa.int32()),
        ("peak_device_bytes", pa.int64()),
        ("peak_host_bytes", pa.int64()),
        ("setup_seconds", pa.float64()),
        ("train_seconds", pa.float64()),
        ("eval_seconds", pa.float64()),
        ("first_loss", pa.float64()),
        ("final_loss", pa.float64()),
        ("accuracy", pa.float64()),
        ("facts", pa.string()),
        ("environment", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
    ]
)
# What raybench writes beyond the contract; a reader must do without them.
EXTRA = pa.schema(
    [
        ("protocol", pa.string()),  # JSON: the protocol that the leg followed
        ("differs", pa.list_(pa.string())),  # what the space declares the arms to differ in
        ("forward_seconds", _FLOATS),
        ("backward_seconds", _FLOATS),
        ("optimizer_seconds", _FLOATS),
        ("steady_from_step", pa.int32()),  # first step of the last steady segment
        ("step_losses", _FLOATS),  # of every step, the mean over ranks and micro-batches
        ("epoch_seconds", _FLOATS),  # training alone; null without epochs
        ("epoch_accuracy", _FLOATS),  # null for an epoch that was not evaluated
        ("epoch_loss", _FLOATS),  # of the test samples, in the same way
        ("accuracy_top5", pa.float64()),
        ("eval_loss", pa.float64()),  # mean cross entropy over the test samples
        ("process_group", pa.string()),  # the fresh set of processes that ran the leg
        ("peak_host_bytes_sum", pa.int64()),  # the ranks' peaks added up
        ("peak_device_reserved_bytes", pa.int64()),
        ("allocation_retries", pa.int32()),
        ("memory_parts", pa.string()),  # JSON: bytes by what they hold, a value a rank
        ("skipped_steps", pa.int32()),  # optimizer steps passed over for an overflow, in the whole leg
        ("batch_probes", pa.string()),  # JSON: how the largest batch was found, where the setting asks for it
        ("telemetry", pa.string()),  # JSON: a reading for each node
        ("energy_joules", pa.float64()),  # of all GPUs, in the measured steps
        ("foreign_cpu_cores", pa.float64()),  # busy with something else than the trial
        ("contaminated", pa.list_(pa.string())),  # why; empty where clean, null where not known
        ("missing_instruments", pa.list_(pa.string())),
        ("matmul_tflops", pa.float64()),  # what a worker reached in a matrix product, where no datasheet says more
        ("network", pa.string()),  # JSON: how the nodes of a trial are joined, where there are several
        ("slots_per_node", pa.int32()),  # trials that might run on a node at a time
        ("attempt", pa.int32()),  # how often the trial had begun anew when it ran this leg; 0 is the first time
        ("placement", pa.string()),  # JSON: by rank, the node and its GPUs
        ("withdrawn", pa.string()),  # in `_aside/` alone: why the row does not count
    ]
)
SCHEMA = pa.schema([*CONTRACT, *EXTRA])
_SMALL_FILE_ROWS = 256


def build_row(sweep: str, space: str, trial: Trial, leg: Leg, outcome: Outcome) -> dict[str, Any]:
    """One ledger row: what the plan said of the leg, and what came of it."""
    setting, arm = leg.setting, leg.arm
    micro_batch = (
        (outcome.batch_probes or {}).get("micro_batch") if setting.batch_size == "max" else setting.micro_batch
    )
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {
        "schema_version": SCHEMA_VERSION,
        "sweep": sweep,
        "space": space,
        "setting_id": trial.setting_id,
        "trial_id": trial.trial_id,
        "leg_id": leg.leg_id,
        "setting": trial.label,
        "model": setting.model,
        "family": trial.family,
        "dataset": setting.dataset,
        "precision": setting.precision,
        "global_batch": None if micro_batch is None else micro_batch * setting.accumulation * setting.workers,
        "micro_batch": micro_batch,
        "accumulation": setting.accumulation,
        "workers": setting.workers,
        "arm": leg.arm_name,
        "engine": arm.engine,
        "arm_config": json.dumps(leg.arm_config(), sort_keys=True),
        "is_baseline": leg.is_baseline,
        "repeat": trial.repeat,
        "round": leg.round,
        "position": leg.position,
        "seed": trial.seed,
        "protocol": json.dumps(trial.as_measured(leg).protocol.model_dump(mode="json"), sort_keys=True),
        "differs": list(trial.differs),
        "facts": json.dumps(outcome.facts, sort_keys=True),
        "environment": json.dumps(outcome.environment, sort_keys=True),
        "started_at": datetime.fromtimestamp(outcome.started_at, tz=UTC),
        "process_group": outcome.process_group,
        "batch_probes": outcome.batch_probes,
        "attempt": outcome.attempt,
        "placement": outcome.placement,
        "slots_per_node": trial.slots_per_node,
    }
    match outcome:
        case Failure(kind=kind, message=message):
            row |= {"status": "failed", "failure_kind": kind, "failure_message": message}
        case Measurement():
            row["status"] = "ok"
            row |= {name: getattr(outcome, name) for name in _MEASURED}
    row |= {name: None if row[name] is None else json.dumps(row[name], sort_keys=True) for name in _JSON}
    return row


# What an outcome holds as an object, and the ledger as JSON.
_JSON = ("batch_probes", "memory_parts", "network", "placement", "telemetry")
# Columns that an outcome of either kind brings; build_row names them.
_OF_ANY_OUTCOME = ("facts", "environment", "started_at", "process_group", "attempt", "placement", "batch_probes")
_MEASURED = [name for name in SCHEMA.names if name in Measurement.__dataclass_fields__ and name not in _OF_ANY_OUTCOME]


def write_rows(folder: AnyPath, name: str, rows: list[dict[str, Any]]) -> AnyPath:
    """Write rows as `folder/name.parquet`, whole or not at all; durable when this returns.

    Raises StorageError where a store does not take them, also after waiting.
    """
    return _write_table(folder, name, pa.Table.from_pylist(rows, schema=SCHEMA))


def _write_table(folder: AnyPath, name: str, table: pa.Table) -> AnyPath:
    # A file of one leg is read faster uncompressed; many legs are worth packing.
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


class Ledger:
    """The write side of one sweep's ledger: a folder with one file a leg, until they are compacted."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder.absolute()

    def leg_ids(self) -> set[str]:
        """The legs that have an outcome here; none where the folder does not exist yet."""
        return {row["leg_id"] for row in self.rows(["leg_id"])}

    def rows(self, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Every row that lies here (or some columns of it), as plain values; none where there is no folder yet."""
        if not _parquet_files(self.folder):
            return []
        rows: list[dict[str, Any]] = read_ledger(self.folder, columns).to_pylist()
        return rows

    def set_aside(self) -> list[str]:
        """Move files that cannot be read to `_aside/`, as NAME.parquet.damaged; returns a line about each.

        Their legs have no outcome then, and run again. A file of a newer version is left alone and raises UserError.
        A withdrawal that was cut is ended.
        """
        told = []
        files = [*_parquet_files(self.folder), *_withdrawn_files(self.folder)]
        with ThreadPoolExecutor(_threads(files)) as pool:
            for file, damage in zip(files, pool.map(_damage, files), strict=True):
                if damage is not None:
                    aside: Any = self.folder / ASIDE / f"{file.name}.damaged"
                    aside.parent.mkdir(exist_ok=True)
                    file.replace(aside)
                    told.append(f"{damage}; set aside as {aside}")
        self.finish_withdrawals()
        if isinstance(self.folder, Path):
            for cut in self.folder.glob(".*.writing"):  # by the death of who wrote it
                cut.unlink(missing_ok=True)
        return told

    def write_space(self, text: str) -> None:
        """Write the resolved space beside the rows: `space=<folder>/_space.yaml` runs the same again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "_space.yaml", text)

    def add(self, sweep: str, space: str, trial: Trial, leg: Leg, outcome: Outcome) -> dict[str, Any]:
        """Write a leg's row; it is durable when this returns. Returns the row."""
        row = build_row(sweep, space, trial, leg, outcome)
        write_rows(self.folder, f"leg-{leg.leg_id}", [row])
        return row

    def withdraw(self, leg_ids: Collection[str], why: str) -> list[dict[str, Any]]:
        """Move rows of one trial to `_aside/`, where they are kept and do not count: their legs run again.

        They lie there, durable, in a file of the trial and its attempt with `why` in the column `withdrawn`, before
        they leave the ledger. Returns them; `finish_withdrawals` ends what was cut in between.
        """
        rows = [row for row in self.rows() if row["leg_id"] in leg_ids]
        if rows:
            attempt = max(row.get("attempt") or 0 for row in rows)
            name = f"trial-{rows[0]['trial_id']}-attempt-{attempt}"
            times = sum(file.stem.startswith(name) for file in _withdrawn_files(self.folder))
            name = f"{name}-{times}" if times else name  # its legs that failed at that time, one kind after the other
            write_rows(self.folder / ASIDE, name, [{**row, "withdrawn": why} for row in rows])
            self._remove({row["leg_id"] for row in rows})
        return rows

    def withdrawn(self) -> list[dict[str, Any]]:
        """Every row that was withdrawn, of every attempt."""
        return [row for file in _withdrawn_files(self.folder) for row in read_file(file).to_pylist()]

    def finish_withdrawals(self) -> None:
        """Take out of the ledger what lies in `_aside/` already: a withdrawal was cut before its end."""
        aside = {(row["leg_id"], row["attempt"] or 0) for row in self.withdrawn()}
        if aside:
            rows = self.rows(["leg_id", "attempt"])
            self._remove({row["leg_id"] for row in rows if (row["leg_id"], row.get("attempt") or 0) in aside})

    def _remove(self, leg_ids: set[str]) -> None:
        """Write the files that hold these legs again without them; a file that holds no other goes."""
        tables = scan_files(_parquet_files(self.folder), ["leg_id"])
        holding = [file for file, table in tables if not leg_ids.isdisjoint(table["leg_id"].to_pylist())]
        for file in dict.fromkeys(holding):
            kept = [row for row in read_file(file).to_pylist() if row["leg_id"] not in leg_ids]
            if kept:
                write_rows(file.parent, file.stem, kept)
            else:
                file.unlink()

    def compact(self, min_files: int = 100) -> bool:
        """Merge the files of single legs into one, where there are `min_files` or more. Returns whether it did.

        The merged file is durable before the others go, and a leg that is in both counts once.
        """
        singles = [file for names, file in files_below(self.folder, "leg-*.parquet") if len(names) == 1]
        if len(singles) < min_files:
            return False
        merged = pa.concat_tables((table for _, table in scan_files(singles)), promote_options="default")
        columns = [
            merged[field.name] if field.name in merged.column_names else pa.nulls(len(merged), field.type)
            for field in SCHEMA
        ]
        name = f"legs-{singles[0].stem.removeprefix('leg-')}-{len(merged)}"
        _write_table(self.folder, name, pa.table(columns, schema=SCHEMA))
        with ThreadPoolExecutor(_threads(singles)) as pool:
            for _ in pool.map(lambda file: file.unlink(missing_ok=True), singles):
                pass
        return True


def ledger_files(path: AnyPath) -> list[AnyPath]:
    """Every `*.parquet` file under a folder in a fixed order, or the one file.

    What lies in a folder whose name begins with `_` or `.` is none of them. Raises UserError when the path does
    not exist or holds no ledger.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"{path}: no such ledger; give the folder of a sweep, as in mlruns/ledger/<space>/<sweep>")
    files = _parquet_files(path)
    if not files:
        raise UserError(f"{path}: no *.parquet file in it or below it, so it is no ledger")
    return files


def _withdrawn_files(folder: AnyPath) -> list[AnyPath]:
    return [file for names, file in files_below(folder / ASIDE, "trial-*.parquet") if len(names) == 1]


def _parquet_files(folder: AnyPath) -> list[AnyPath]:
    found = files_below(folder, "*.parquet")
    return [file for names, file in found if not any(name.startswith((".", "_")) for name in names)]


def read_file(path: AnyPath, columns: list[str] | None = None) -> pa.Table:
    """One file's rows with the contract's columns (and those of raybench's extras that it has).

    `columns` limits what is read. Raises UserError naming the file when it is no Parquet file, is
    truncated or damaged, is of another schema version, or lacks a column.
    """
    return pa.concat_tables(list(scan_file(path, columns)))


def scan_file(path: AnyPath, columns: list[str] | None = None, rows: int = 1 << 30) -> Iterator[pa.Table]:
    """One file's rows as `read_file` gives them, in tables of at most `rows` rows (at least one table)."""
    try:
        with readable(path) as source, pq.ParquetFile(source, page_checksum_verification=True) as parquet:
            names = set(parquet.schema_arrow.names)
            missing = [name for name in CONTRACT.names if name not in names]
            if "schema_version" in missing:
                raise DamagedFile(_lacks(path, "schema_version"))
            if not _is_known_version(parquet):
                _check_version(path, parquet.read(columns=["schema_version"])["schema_version"])
            if missing:
                raise DamagedFile(_lacks(path, missing[0]))
            wanted = [name for name in (columns or SCHEMA.names) if name in names]
            if parquet.metadata.num_rows <= rows:
                yield _conform(parquet.read(columns=wanted, use_threads=rows > _SMALL_FILE_ROWS).select(wanted))
                return
            for batch in parquet.iter_batches(rows, columns=wanted):
                yield _conform(pa.Table.from_batches([batch]).select(wanted))
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedFile(f"{path}: not a readable Parquet file of the ledger ({first_line})") from error


def scan_files(
    files: Sequence[AnyPath], columns: list[str] | None = None, rows: int = 1 << 30
) -> Iterator[tuple[AnyPath, pa.Table]]:
    """All files' rows in order, as (file, table) with at most `rows` rows; small files are read side by side."""
    with ThreadPoolExecutor(_threads(files)) as pool:
        for file, table in pool.map(lambda file: (file, _read_if_small(file, columns)), files):
            if table is not None:
                yield file, table
            else:
                yield from ((file, part) for part in scan_file(file, columns, rows))


def _damage(file: AnyPath) -> DamagedFile | None:
    """What is wrong with a file, read whole; None where nothing is."""
    try:
        for _ in scan_file(file):
            pass
    except DamagedFile as error:
        return error
    return None


def _threads(files: Sequence[AnyPath]) -> int:
    """How many files are read side by side: a store keeps its readers waiting, a disk keeps the cores busy."""
    return min(4, os.cpu_count() or 1) if all(isinstance(file, Path) for file in files[:1]) else 16


def _read_if_small(path: AnyPath, columns: list[str] | None) -> pa.Table | None:
    """The whole file where it holds few rows, as an uncompacted ledger's do; else None."""
    if not isinstance(path, Path):  # fetched once
        first, *others = itertools.islice(scan_file(path, columns, _SMALL_FILE_ROWS), 2)
        return None if others else first
    try:
        num_rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return None  # reading it in its turn says what is wrong
    return next(scan_file(path, columns, _SMALL_FILE_ROWS)) if num_rows <= _SMALL_FILE_ROWS else None


def _lacks(path: AnyPath, column: str) -> str:
    return f"{path}: column {column!r} is missing, so it is no ledger of version {SCHEMA_VERSION}"


def _is_known_version(parquet: pq.ParquetFile) -> bool:
    """Whether the file's statistics alone say that every row is of the known version."""
    metadata = parquet.metadata
    column = parquet.schema_arrow.get_field_index("schema_version")
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(column)
        if chunk.path_in_schema != "schema_version" or chunk.statistics is None:
            return False
        if not chunk.statistics.has_min_max or chunk.statistics.null_count:
            return False
        if (chunk.statistics.min, chunk.statistics.max) != (SCHEMA_VERSION, SCHEMA_VERSION):
            return False
    return True


def _conform(table: pa.Table) -> pa.Table:
    """The columns in the contract's types, whatever tool wrote them (pandas: wide integers, nanoseconds)."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        wanted = SCHEMA.field(name).type
        if column.type == wanted:
            columns.append(column)
            continue
        if pa.types.is_floating(column.type) and not pa.types.is_floating(wanted):
            column = pc.if_else(pc.is_nan(column), None, column)
        if column.null_count == len(column):
            columns.append(pa.chunked_array([pa.nulls(len(column), wanted)]))
            continue
        try:
            columns.append(column.cast(wanted, safe=not pa.types.is_timestamp(wanted)))
        except pa.ArrowException as error:
            raise pa.ArrowInvalid(f"column {name}: {error}") from error
    return pa.table(columns, schema=pa.schema([SCHEMA.field(name) for name in table.column_names]))


def _check_version(path: AnyPath, versions: pa.ChunkedArray) -> None:
    unknown = [version for version in pc.unique(versions).to_pylist() if version != SCHEMA_VERSION]
    if unknown:
        raise UserError(
            f"{path}: schema_version {unknown[0]} is not known to this raybench, which reads version {SCHEMA_VERSION}"
        )


def read_ledger(path: AnyPath, columns: list[str] | None = None) -> pa.Table:
    """All rows under `path`, each leg once: a row whose `leg_id` came before is the same leg.

    Raises UserError as `read_file` and `ledger_files` do.
    """
    wanted = columns if columns is None or "leg_id" in columns else [*columns, "leg_id"]
    tables = [table for _, table in scan_files(ledger_files(path), wanted)]
    table = pa.concat_tables(tables, promote_options="default")
    seen: dict[str, int] = {}
    for index, leg_id in enumerate(table["leg_id"].to_pylist()):
        seen.setdefault(leg_id, index)
    return table if len(seen) == len(table) else table.take(list(seen.values()))
