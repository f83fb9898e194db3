"""An estimate: a value with its interval, the only form in which uncertain numbers leave the analysis.

A number that does not exist is None, never nan or infinity. Nothing is rounded here.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from raybench.caveats import Caveat
from raybench.statistics.inference import Floats


@dataclass(frozen=True)
class Estimate:
    """A value and its interval [low, high] of confidence `level`, from `n` samples."""

    value: float | None
    low: float | None  # None without an interval, or where this side has no bound
    high: float | None
    unit: str  # `ratio`, `bytes`, `accuracy`, `steps`
    level: float | None  # None without an interval
    n: int


def estimates(value: Floats, low: Floats, high: Floats, *, unit: str, level: ArrayLike, n: ArrayLike) -> list[Estimate]:
    """One estimate per entry of arrays of shape (k,); nan and infinity become None. `level` and `n` may be scalars."""
    values, lows, highs, levels, counts = np.broadcast_arrays(value, low, high, level, n)
    return [
        Estimate(
            number(v),
            number(a),
            number(b),
            unit,
            float(confidence) if np.isfinite(a) or np.isfinite(b) else None,
            int(count),
        )
        for v, a, b, confidence, count in zip(
            values.tolist(), lows.tolist(), highs.tolist(), levels.tolist(), counts.tolist(), strict=True
        )
    ]


def ratio_estimates(value: Floats, low: Floats, high: Floats, *, level: ArrayLike, n: ArrayLike) -> list[Estimate]:
    """`estimates` of ratios from arrays on the log scale."""
    with np.errstate(over="ignore"):
        return estimates(np.exp(value), np.exp(low), np.exp(high), unit="ratio", level=level, n=n)


def ratio_estimate(value: float, low: float, high: float, *, level: float, n: int) -> Estimate:
    """One ratio from its log and the ends of its interval on the log scale."""
    return ratio_estimates(*(np.array([x], dtype=float) for x in (value, low, high)), level=level, n=n)[0]


def number(value: float) -> float | None:
    """A Python float, or None for nan and infinity."""
    return float(value) if np.isfinite(value) else None


def ratio(log: float) -> float | None:
    """A log ratio as a ratio; None where it is missing or too large for a float."""
    with np.errstate(over="ignore"):
        return number(float(np.exp(log)))


def flatten(record: Any) -> dict[str, Any]:
    """A record as one level of names and values: by its class's `COLUMNS` (name -> attribute path) if it has them, else
    by its fields. The names are those of the open format."""
    columns: dict[str, str] = getattr(type(record), "COLUMNS", None) or {
        name: name for name in record.__dataclass_fields__
    }
    return {name: attrgetter(path)(record) for name, path in columns.items()}


def plain(value: Any) -> Any:
    """Records, arrays and NumPy numbers as JSON values; nan and infinity as None, caveats as text."""
    if isinstance(value, Caveat):
        return value.text
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(item) for name, item in flatten(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
