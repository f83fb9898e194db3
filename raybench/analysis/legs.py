"""Reads ledgers as columns: every leg once, as arrays with one entry a leg.

Files are read in batches, and of the lists of steps only what the analysis needs is kept, so that a million legs of a
hundred steps need not fit in memory at once. Texts become codes into a list of names. Legs are sorted (space, sweep,
setting, trial, arm, round), so that the order of files and of rows cannot change any digit of a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raybench.analysis.arrays import Coded, code_of, coded, dense, hardware_of, number_array, parse_object, text_array
from raybench.analysis.step_times import BadLeg, StepStatistics, first_values, summarize, time_to_accuracy
from raybench.errors import UserError
from raybench.ledger import reading as ledger
from raybench.ledger.quantities import QUANTITIES
from raybench.statistics.inference import Floats, Integers
from raybench.stores.storage import AnyPath

TEXTS: Final = tuple(name for name, quantity in QUANTITIES.items() if quantity.analysis == "text")
NUMBERS: Final = tuple(name for name, quantity in QUANTITIES.items() if quantity.analysis == "number")
_LISTS: Final = ("step_seconds", "data_seconds")
_LOSSES: Final = "step_losses"
_NORMS: Final = "gradient_norms"
NUM_LOSSES: Final = 10  # losses of each leg that are compared between arms; also gradient norms
_EPOCH_LISTS: Final = ("epoch_seconds", "epoch_accuracy", "epoch_loss")
_TARGET: Final = "time_to_accuracy"  # seconds, infinity where the target was not reached
_NEVER_NULL: Final = ("space", "sweep", "setting_id", "trial_id", "leg_id", "arm", "status", "is_baseline", "round")
_SORTED: Final = ("space", "sweep", "setting_id", "setting", "trial_id", "arm")
_BATCH_ROWS: Final = 16_384


@dataclass(frozen=True)
class Legs:
    """Legs as columns; every array has shape (legs,); numbers are nan where the ledger has null."""

    text: Mapping[str, Coded]
    number: Mapping[str, Floats]
    steps: StepStatistics
    hardware: Coded
    losses: Floats  # of the first steps, (legs, NUM_LOSSES); nan where missing
    norms: Floats  # gradient norms of the same steps, same shape

    def __len__(self) -> int:
        return len(self.text["arm"].codes)

    @cached_property
    def ok(self) -> np.ndarray:
        """Which legs were measured."""
        return np.asarray(self.text["status"].codes == code_of(self.text["status"], "ok"))

    def take(self, rows: np.ndarray) -> Legs:
        """These rows, in this order."""
        return Legs(
            {name: column.take(rows) for name, column in self.text.items()},
            {name: values[rows] for name, values in self.number.items()},
            StepStatistics(**{f.name: getattr(self.steps, f.name)[rows] for f in fields(StepStatistics)}),
            self.hardware.take(rows),
            self.losses[rows],
            self.norms[rows],
        )


def read_legs(paths: Sequence[AnyPath]) -> Legs:
    """All legs of the ledgers at `paths` (folders or files), each once, in sorted order.

    Rows with equal space, sweep, `leg_id` and hardware are the same leg; the first counts. Raises UserError for a path
    that is no ledger, and for a row that no run can have written, naming the file and the leg.
    """
    if not paths:
        raise UserError("no ledger given; name the folder of a sweep, as in mlruns/ledger/<space>/<sweep>")
    collected: dict[str, list[Any]] = {name: [] for name in (*TEXTS, *NUMBERS, _TARGET, _LOSSES, _NORMS, "steps")}
    files = [file for path in paths for file in ledger.ledger_files(path)]
    tables = ledger.scan_files(files, [*TEXTS, *NUMBERS, *_LISTS, _LOSSES, _NORMS, *_EPOCH_LISTS], _BATCH_ROWS)
    for lot in _ahead(_lots(tables)):
        _read_lot(lot, collected)
    if not sum(len(statistics.mean_seconds) for statistics in collected["steps"]):
        raise UserError(f"{', '.join(map(str, paths))}: no leg in it; run the sweep first")
    text = {name: coded(collected.pop(name), ordered=name in _SORTED) for name in TEXTS}
    number = {name: np.concatenate(collected.pop(name)) for name in (*NUMBERS, _TARGET)}
    parts: list[StepStatistics] = collected.pop("steps")
    steps = StepStatistics(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(StepStatistics)}
    )
    losses, norms = (np.concatenate(collected.pop(name)) for name in (_LOSSES, _NORMS))
    legs = Legs(text, number, steps, _hardware(text), losses, norms)
    legs = legs.take(_first_of_each(legs))
    keys = [legs.number["position"], legs.number["round"], *(legs.text[name].codes for name in reversed(_SORTED))]
    return legs.take(np.lexsort([*keys, legs.hardware.codes]))


def _lots(tables: Iterable[tuple[AnyPath, pa.Table]]) -> Iterator[list[tuple[AnyPath, pa.Table]]]:
    """Groups of consecutive tables, about `_BATCH_ROWS` rows each: a file may hold one leg or a million."""
    lot: list[tuple[AnyPath, pa.Table]] = []
    size = 0
    for file, table in tables:
        if size + len(table) > _BATCH_ROWS and lot:
            yield lot
            lot, size = [], 0
        if len(table):
            lot.append((file, table))
            size += len(table)
    if lot:
        yield lot


def _ahead(lots: Iterator[list[tuple[AnyPath, pa.Table]]]) -> Iterator[list[tuple[AnyPath, pa.Table]]]:
    """The same items, but the next one is read while the caller works on the current one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, lots, None)
        while (lot := coming.result()) is not None:
            coming = pool.submit(next, lots, None)
            yield lot


def _read_lot(lot: list[tuple[AnyPath, pa.Table]], collected: dict[str, list[Any]]) -> None:
    table = pa.concat_tables([part for _, part in lot], promote_options="default").combine_chunks()
    for name in _NEVER_NULL:
        if table[name].null_count:
            row = int(np.argmax(table[name].is_null().to_numpy(zero_copy_only=False)))
            raise UserError(f"{_place(lot, row)} has no {name}, so it is no leg")
    for name in TEXTS:
        collected[name].append(text_array(table, name))
    for name in NUMBERS:
        collected[name].append(number_array(table, name))
    collected[_TARGET].append(_time_to_accuracy(table))
    for name in (_LOSSES, _NORMS):
        collected[name].append(first_values(_list(table, name), NUM_LOSSES))
    try:
        collected["steps"].append(_step_statistics(table))
    except BadLeg as bad:
        leg, arm, setting = (table[name][bad.row].as_py() for name in ("leg_id", "arm", "setting"))
        file = _place(lot, bad.row).partition(": row")[0]
        raise UserError(f"{file}: leg {leg} ({arm}, {setting}) {bad.reason}; take the row out or mend it") from None


def _place(lot: list[tuple[AnyPath, pa.Table]], row: int) -> str:
    """The origin of a row in a lot, as `file: row 3`."""
    for file, table in lot:
        if row < len(table):
            return f"{file}: row {row}"
        row -= len(table)
    raise IndexError(row)


def _time_to_accuracy(table: pa.Table) -> Floats:
    protocols = text_array(table, "protocol")
    targets = [_target(text) for text in protocols.dictionary.to_pylist()]
    codes = np.asarray(pc.fill_null(protocols.indices, -1))
    target = np.array([*targets, np.nan])[codes]
    ok = pc.equal(table["status"], "ok").to_numpy()
    accuracy, seconds = number_array(table, "accuracy"), number_array(table, "train_seconds")
    lists = [_list(table, name) for name in _EPOCH_LISTS]
    to_accuracy = time_to_accuracy(lists[0], lists[1], np.where(ok, target, np.nan), accuracy, seconds)
    losses = [_target(text, "target_loss") for text in protocols.dictionary.to_pylist()]
    if not np.isfinite(losses).any():
        return to_accuracy
    below = pa.ListArray.from_arrays(lists[2].offsets, pc.negate(lists[2].values))
    wanted = np.where(ok, -np.array([*losses, np.nan])[codes], np.nan)
    to_loss = time_to_accuracy(lists[0], below, wanted, -number_array(table, "eval_loss"), seconds)
    return np.where(np.isfinite(target), to_accuracy, to_loss)


def _list(table: pa.Table, name: str) -> pa.ListArray:
    """A column of lists of floats; nulls where the table lacks it."""
    kind = pa.list_(pa.float64())
    return table[name].cast(kind).combine_chunks() if name in table.column_names else pa.nulls(len(table), kind)


def _target(protocol: str, name: str = "target_accuracy") -> float:
    target = parse_object(protocol).get(name)
    return float(target) if isinstance(target, int | float) else np.nan


def _step_statistics(table: pa.Table) -> StepStatistics:
    status = table["status"].combine_chunks()
    known = pc.is_in(status, pa.array(["ok", "failed"])).to_numpy(zero_copy_only=False)
    if not known.all():
        row = int(np.argmin(known))
        raise BadLeg(row, f"has status {status[row].as_py()!r} instead of 'ok' or 'failed'")
    steps, data = (table[name].combine_chunks() for name in _LISTS)
    ok = pc.equal(status, "ok").to_numpy(zero_copy_only=False)
    return summarize(steps, data, number_array(table, "warmup_steps"), ok)


def _hardware(text: Mapping[str, Coded]) -> Coded:
    """The hardware of each leg; a leg that states none ran where its trial did, or else its sweep."""
    hardware = text["environment"].map(_hardware_of_json)
    unknown = hardware.names.index("") if "" in hardware.names else -2
    codes = hardware.codes.copy()
    for keys in (("space", "sweep", "trial_id"), ("space", "sweep")):
        if not (codes == unknown).any() or (codes == unknown).all():
            break
        group = dense(*(text[key].codes for key in keys))
        known = codes != unknown
        lowest = np.full(group.max() + 1, np.iinfo(np.int64).max)
        highest = np.full(group.max() + 1, -1)
        np.minimum.at(lowest, group[known], codes[known])
        np.maximum.at(highest, group[known], codes[known])
        settled = ~known & (lowest[group] == highest[group])
        codes[settled] = lowest[group[settled]]
    return Coded(codes, hardware.names)


def _hardware_of_json(environment: str) -> str:
    return hardware_of(parse_object(environment))


def _first_of_each(legs: Legs) -> Integers:
    group = dense(*(legs.text[name].codes for name in ("space", "sweep", "leg_id")), legs.hardware.codes)
    return np.sort(np.unique(group, return_index=True)[1])
