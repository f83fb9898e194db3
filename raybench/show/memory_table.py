"""Predicted memory beside measured memory, one row per arm; ZeRO's buckets beside the ratio that they explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from raybench.analysis import Analysis, Comparison
from raybench.analysis.results import Side
from raybench.show import units
from raybench.show.document import Cell, Column, Row, Table, columns

APART: Final = 0.20  # a prediction and a measurement that differ by more are reported
_SMALL: Final = 0.05  # of everything predicted; smaller differences are not named
_MOST_ROWS: Final = 200
_PARTS: Final = ("parameters", "gradients", "master_weights", "optimizer_state", "activations")
_BUCKETS: Final = "communication_buckets"
_ON_DEVICE: Final = "device"


def prediction_table(analysis: Analysis) -> Table | None:
    """Each arm's predicted bytes per worker by content, beside the measured peak; None without predictions."""
    rows = []
    for setting, arm, side, on_device in _sides(analysis):
        predicted, held = side.predicted_memory, side.memory_parts or {}
        if predicted is None:
            continue
        expected, measured = totals(predicted, held, side.memory_bytes if on_device else None)
        parts = [Cell(_beside(predicted.get(part), held.get(part)), repr(predicted.get(part, 0.0))) for part in _PARTS]
        buckets = predicted.get(_BUCKETS)
        rows.append(
            Row((
                Cell(setting), Cell(arm), _size(expected), _size(measured), Cell(_apart(expected, measured)),
                Cell(", ".join(parted(predicted, held))), *parts, Cell(units.size(buckets) if buckets else ""),
            ))
        )  # fmt: skip
    if not rows:
        return None
    details = [*(part.replace("_", " ") for part in _PARTS), "buckets"]
    names = columns("setting", "arm", "predicted", "measured", "apart", "because of", numbers=("predicted", "measured"),
                    folds=("because of",))  # fmt: skip
    return Table(
        "predicted-memory",
        "Memory of a worker, as predicted and as measured",
        (*names, *(Column(name, number=True, detail=True) for name in details)),
        tuple(rows[:_MOST_ROWS]),
        note="Predicted by ZeRO's arithmetic and an estimate of activations, docs/language.md. Measured: the peak of "
        "the device; on a CPU, where a process holds much else, the parts that the engine shows, added up. Of each "
        f"part: predicted / held. Apart: by more than {units.percent(APART)}.",
        left_out=f"{len(rows) - _MOST_ROWS:,} more rows are in comparisons.csv" if len(rows) > _MOST_ROWS else "",
    )


def _sides(analysis: Analysis) -> Iterator[tuple[str, str, Side, bool]]:
    """(setting, arm, its side, whether its peak is a device's), the baseline of each setting before its arms."""
    told: set[tuple[str, str]] = set()
    for c in analysis.comparisons:
        key = c.where.setting_id, c.where.hardware
        if key not in told and c.baseline.predicted_memory is not None:
            told.add(key)
            yield c.where.setting, analysis.baseline, c.baseline, c.memory.of == _ON_DEVICE
        yield c.where.setting, c.arm, c.treated, c.memory.of == _ON_DEVICE


def totals(
    predicted: Mapping[str, float], held: Mapping[str, float], peak: float | None
) -> tuple[float | None, float | None]:
    """Comparable (predicted, measured) bytes: of the device where it has a peak, else of the parts that both have."""
    if peak is not None:
        return predicted.get("device"), peak
    shared = [part for part in _PARTS if part in predicted and part in held]
    return (sum(predicted[part] for part in shared), sum(held[part] for part in shared)) if shared else (None, None)


def parted(predicted: Mapping[str, float], held: Mapping[str, float]) -> list[str]:
    """The parts that differ much from the prediction and are large enough to matter."""
    whole = sum(predicted.get(part, 0.0) for part in _PARTS)
    return [
        part.replace("_", " ")
        for part in _PARTS
        if part in predicted
        and part in held
        and abs(held[part] - predicted[part]) > max(APART * predicted[part], _SMALL * whole)
    ]


def _apart(predicted: float | None, measured: float | None) -> str:
    """The relative difference from the prediction, as `+35 %`; empty where it is small."""
    if not predicted or measured is None or abs(measured / predicted - 1) <= APART:
        return ""
    return f"{100 * (measured / predicted - 1):+.0f} %"


def _beside(predicted: float | None, held: float | None) -> str:
    if not predicted and not held:
        return ""
    return " / ".join("?" if value is None else units.size(value) for value in (predicted, held))


def _size(value: float | None) -> Cell:
    return Cell("" if value is None else units.size(value), "" if value is None else repr(float(value)))


def buckets_in_words(comparisons: Sequence[Comparison]) -> str:
    """The memory that ZeRO's buckets add to arms that take more than the baseline; empty where there is none."""
    more = [c for c in comparisons if (bucket_growth(c) or 0) > 0]
    if not more:
        return ""
    arms = list(dict.fromkeys(c.arm for c in more))
    sizes = sorted({c.treated.bucket_bytes or 0.0 for c in more})
    each = units.size(sizes[0]) if len(sizes) == 1 else f"{units.size(sizes[0])} to {units.size(sizes[-1])}"
    return (
        f"ZeRO's communication buckets are {each} of the peak of {', '.join(arms)}: reduce_bucket_size, by default 5e8 "
        "elements whatever the model's size."
    )


def bucket_growth(c: Comparison) -> float | None:
    """Bytes of buckets that explain most of the device memory that an arm takes beyond the baseline; else None."""
    buckets, saved = c.treated.bucket_bytes, c.memory.saved.value
    if not buckets or saved is None or c.memory.of != _ON_DEVICE:
        return None
    grown = -saved
    return buckets if grown > 0 and 2 * buckets > grown > buckets / 2 else None
