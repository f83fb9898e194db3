"""Reads a ledger: verifies files by their checksums and converts them to the contract's types."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raybench.errors import DamagedFile, UserError
from raybench.ledger.columns import CONTRACT, SCHEMA, SCHEMA_VERSION
from raybench.stores.storage import AnyPath, files_below, readable

_SMALL_FILE_ROWS = 256
_JOINED_TABLES = 512


def ledger_files(path: AnyPath) -> list[AnyPath]:
    """Every `*.parquet` file under a folder in a fixed order, or the one file.

    Skips folders whose names begin with `_` or `.`. Raises UserError when the path does not exist or holds no ledger.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"{path}: no such ledger; give the folder of a sweep, as in mlruns/ledger/<space>/<sweep>")
    files = parquet_files(path)
    if not files:
        raise UserError(f"{path}: no *.parquet file in it or below it, so it is no ledger")
    return files


def parquet_files(folder: AnyPath) -> list[AnyPath]:
    """The `*.parquet` files below a folder that count; empty where there is no such folder."""
    found = files_below(folder, "*.parquet")
    return [file for names, file in found if not any(name.startswith((".", "_")) for name in names)]


def read_file(path: AnyPath, columns: list[str] | None = None) -> pa.Table:
    """One file's rows with the contract's columns, and those of raybench's extra columns that it has.

    `columns` limits what is read. Raises UserError naming the file when it is no Parquet file, is truncated or damaged,
    has another schema version, or lacks a column.
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
    """All files' rows in order, as (file, table) with at most `rows` rows; small files are read in parallel."""
    with ThreadPoolExecutor(num_readers(files)) as pool:
        for file, table in pool.map(lambda file: (file, _read_if_small(file, columns)), files):
            if table is not None:
                yield file, table
            else:
                yield from ((file, part) for part in scan_file(file, columns, rows))


def join_small(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables: a table with one row takes twenty times the memory of its values."""
    for is_small, group in itertools.groupby(tables, lambda table: len(table) <= _SMALL_FILE_ROWS):
        if not is_small:
            yield from group
            continue
        while some := list(itertools.islice(group, _JOINED_TABLES)):
            yield pa.concat_tables(some, promote_options="default").combine_chunks()


def read_files(files: Sequence[AnyPath], columns: list[str] | None = None) -> pa.Table:
    """All rows of these files, in order. Raises UserError as `read_file` does."""
    tables = join_small(table for _, table in scan_files(files, columns))
    return pa.concat_tables(list(tables), promote_options="default")


def num_readers(files: Sequence[AnyPath]) -> int:
    """How many files to read in parallel: a store makes its readers wait, a disk keeps the cores busy."""
    return min(4, os.cpu_count() or 1) if all(isinstance(file, Path) for file in files[:1]) else 16


def _read_if_small(path: AnyPath, columns: list[str] | None) -> pa.Table | None:
    """The whole file if it has few rows, as in an uncompacted ledger; else None."""
    if not isinstance(path, Path):  # fetched only once
        first, *others = itertools.islice(scan_file(path, columns, _SMALL_FILE_ROWS), 2)
        return None if others else first
    try:
        num_rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return None  # the later, regular read reports the problem
    return next(scan_file(path, columns, _SMALL_FILE_ROWS)) if num_rows <= _SMALL_FILE_ROWS else None


def _lacks(path: AnyPath, column: str) -> str:
    return f"{path}: column {column!r} is missing, so it is no ledger of version {SCHEMA_VERSION}"


def _is_known_version(parquet: pq.ParquetFile) -> bool:
    """Whether the file's statistics alone show that every row is of the known version."""
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
    """All rows under `path`, each leg once: the first row with a `leg_id` counts.

    Raises UserError as `read_file` and `ledger_files` do.
    """
    wanted = columns if columns is None or "leg_id" in columns else [*columns, "leg_id"]
    table = read_files(ledger_files(path), wanted)
    seen: dict[str, int] = {}
    for index, leg_id in enumerate(table["leg_id"].to_pylist()):
        seen.setdefault(leg_id, index)
    return table if len(seen) == len(table) else table.take(list(seen.values()))
