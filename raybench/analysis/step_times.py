"""From a leg's lists to one number each: measured steps, and the training time to a target accuracy.

Lists come as Arrow list arrays, one list a leg; results have shape (legs,), nan for legs that are not `ok`. Measured
steps are those after the leg's `warmup_steps`. No Python loop runs over legs: legs with the same number of measured
steps are handled together, as a matrix of shape (legs, steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import pyarrow as pa

from raybench.statistics.inference import Floats, Integers


@dataclass(frozen=True)
class StepStatistics:
    """Statistics of each leg's measured steps; shape (legs,)."""

    mean_seconds: Floats
    median_seconds: Floats
    p90_seconds: Floats
    p99_seconds: Floats
    drift: Floats  # log of the second half's mean step over the first half's
    data_share: Floats  # share of the time spent waiting for data; nan where not recorded
    num_steps: Floats  # all steps, warm-up included


_QUANTILES: Final = {"median_seconds": 0.5, "p90_seconds": 0.9, "p99_seconds": 0.99}


@dataclass(frozen=True)
class BadLeg(Exception):
    """A leg whose lists no run can have recorded: its row, and the reason in words."""

    row: int
    reason: str


def summarize(steps: pa.ListArray, data: pa.ListArray, warmup: Floats, ok: np.ndarray) -> StepStatistics:
    """Mean, median, drift and data share of the legs' measured steps.

    `steps` and `data` hold seconds (data may be null), `warmup` the number of unmeasured steps, `ok` whether a leg was
    measured. Raises BadLeg for the first leg, in row order, whose lists cannot be right.
    """
    values, starts, lengths = _flat(steps)
    data_values, data_starts, data_lengths = _flat(data)
    has_data = ok & data.is_valid().to_numpy(zero_copy_only=False)
    _refuse(ok & ~steps.is_valid().to_numpy(zero_copy_only=False), lambda _: "is `ok` but has no step_seconds")
    _refuse(ok & ~(warmup >= 0), lambda _: "is `ok` but has no warmup_steps of 0 or more")
    _refuse(
        ok & ~(warmup < lengths),
        lambda i: f"has {lengths[i]} step_seconds and {warmup[i]:.0f} warmup_steps, so nothing is measured",
    )
    _refuse(
        has_data & (data_lengths != lengths),
        lambda i: f"has {lengths[i]} step_seconds but {data_lengths[i]} data_seconds",
    )
    _refuse_values(values, starts, lengths, ok, "step_seconds", zero=False)
    _refuse_values(data_values, data_starts, data_lengths, has_data, "data_seconds", zero=True)

    result = {field.name: np.full(len(ok), np.nan) for field in fields(StepStatistics)}
    result["num_steps"][ok] = lengths[ok]
    first = np.where(ok, warmup, 0).astype(np.int64)
    for rows, count in _blocks(lengths - first, ok):
        window = values[(starts[rows] + first[rows])[:, None] + np.arange(count)]
        result["mean_seconds"][rows] = window.mean(axis=1)
        quantiles = np.quantile(window, list(_QUANTILES.values()), axis=1)
        for name, values_of in zip(_QUANTILES, quantiles, strict=True):
            result[name][rows] = values_of
        half = count // 2
        if half:
            result["drift"][rows] = np.log(window[:, count - half :].mean(axis=1) / window[:, :half].mean(axis=1))
        kept = has_data[rows]
        waits = data_values[(data_starts[rows[kept]] + first[rows[kept]])[:, None] + np.arange(count)]
        result["data_share"][rows[kept]] = waits.sum(axis=1) / window[kept].sum(axis=1)
    return StepStatistics(**result)


def first_values(lists: pa.ListArray, count: int) -> Floats:
    """The first `count` values of each list, (legs, count); nan where a list is shorter or null."""
    values, starts, lengths = _flat(lists)
    place = starts[:, None] + np.arange(count)
    there = np.arange(count) < lengths[:, None]
    return np.where(there, np.append(values, np.nan)[np.where(there, place, -1)], np.nan)


def _flat(lists: pa.ListArray) -> tuple[Floats, Integers, Integers]:
    """All values, and each list's start and length; a null list has length 0."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    values = lists.values.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    return values, offsets[:-1], np.where(valid, np.diff(offsets), 0)


def _blocks(counts: Integers, ok: np.ndarray) -> Iterator[tuple[Integers, int]]:
    """The rows of `ok` legs, grouped by their number of measured steps."""
    rows = np.flatnonzero(ok)
    if not rows.size:
        return
    rows = rows[np.argsort(counts[rows], kind="stable")]
    sizes, begins = np.unique(counts[rows], return_index=True)
    for count, block in zip(sizes, np.split(rows, begins[1:]), strict=True):
        yield block, int(count)


def _refuse(bad: np.ndarray, reason) -> None:  # type: ignore[no-untyped-def]
    if bad.any():
        row = int(np.argmax(bad))
        raise BadLeg(row, reason(row))


def _refuse_values(
    values: Floats, starts: Integers, lengths: Integers, ok: np.ndarray, name: str, *, zero: bool
) -> None:
    low = values >= 0 if zero else values > 0
    wrong = np.flatnonzero(~(low & (values < np.inf)))
    if len(wrong) == 0:
        return
    # The leg that holds each wrong value: the last one starting at or before it, unless the value is past its end.
    holders = np.flatnonzero(ok & (lengths > 0))
    place = np.searchsorted(starts[holders], wrong, side="right") - 1
    rows = holders[np.maximum(place, 0)] if len(holders) else np.zeros(len(wrong), dtype=np.int64)
    inside = (place >= 0) & (wrong >= starts[rows]) & (wrong < starts[rows] + lengths[rows])
    if inside.any():
        at = int(np.argmax(inside))
        row, value = int(rows[at]), values[wrong[at]]
        number = wrong[at] - starts[row]
        least = "0 or more" if zero else "above 0"
        raise BadLeg(row, f"has {value} in {name} at step {number}; seconds must be {least}")


def time_to_accuracy(
    seconds: pa.ListArray, accuracy: pa.ListArray, target: Floats, final_accuracy: Floats, train_seconds: Floats
) -> Floats:
    """Each leg's seconds of training to the target, (legs,); infinity where it was not reached, nan where unknown.

    `seconds` and `accuracy` hold one value an epoch: training time without evaluation, and the accuracy after it. A leg
    without these lists is judged by its final accuracy and its whole training time: an upper bound. `target` is nan
    where the leg's protocol names none.
    """
    reached = np.where(final_accuracy >= target, train_seconds, np.inf)
    result = np.where(np.isfinite(target) & np.isfinite(final_accuracy), reached, np.nan)
    lengths = [np.diff(lists.offsets.to_numpy()) for lists in (seconds, accuracy)]
    valid = seconds.is_valid().to_numpy(zero_copy_only=False) & accuracy.is_valid().to_numpy(zero_copy_only=False)
    told = valid & (lengths[0] == lengths[1]) & (lengths[0] > 0) & np.isfinite(target)
    if not told.any():
        return result
    values = [lists.values.to_numpy(zero_copy_only=False) for lists in (seconds, accuracy)]
    starts = [lists.offsets.to_numpy()[:-1].astype(np.int64) for lists in (seconds, accuracy)]
    elapsed = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values[0]))])
    result[told] = np.inf
    for epoch in range(int(lengths[0][told].max())):
        rows = np.flatnonzero(told & (lengths[0] > epoch) & np.isinf(result))
        hit = rows[values[1][starts[1][rows] + epoch] >= target[rows]]
        result[hit] = elapsed[starts[0][hit] + epoch + 1] - elapsed[starts[0][hit]]
    return result
