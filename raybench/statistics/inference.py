"""Intervals and p values of one comparison at a time: pure functions over arrays.

Everything here works on summaries in arrays of shape (k,), one entry a comparison: the `count` of trials, the `mean` of
their differences d (log ratios: baseline minus arm, so above 0 the arm is faster) and their sample standard deviation
`deviation`. Only trials are samples: steps, ranks and rounds are averaged before (see `raybench.analysis.pairs`).
These are plain paired-t numbers for single comparisons; `raybench.statistics.claims` decides what may be claimed about
many comparisons.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Trials' differences closer than this are equal up to rounding.
_ROUNDING: Final = 1e-13


def t_quantile(count: ArrayLike, tail: ArrayLike) -> Floats:
    """The quantile of Student's t with count - 1 degrees of freedom that has `tail` above it; nan where count < 2."""
    degrees = np.asarray(count, dtype=float) - 1.0
    quantile: Floats = -special.stdtrit(np.maximum(degrees, 1.0), np.asarray(tail, dtype=float))
    return np.asarray(np.where(degrees >= 1, quantile, np.nan))


def t_interval(count: ArrayLike, mean: ArrayLike, deviation: ArrayLike, alpha: ArrayLike) -> tuple[Floats, Floats]:
    """Two-sided interval of level 1 - alpha for the true mean; (nan, nan) where count < 2."""
    centre = np.asarray(mean, dtype=float)
    half = t_quantile(count, np.asarray(alpha, dtype=float) / 2) * standard_error(count, deviation)
    return np.asarray(centre - half), np.asarray(centre + half)


def standard_error(count: ArrayLike, deviation: ArrayLike) -> Floats:
    """Standard error of the mean; nan where count < 2, 0 where the trials agree to rounding."""
    trials = np.asarray(count, dtype=float)
    error = np.asarray(deviation, dtype=float) / np.sqrt(np.maximum(trials, 1.0))
    return np.where(trials >= 2, np.where(error <= _ROUNDING, 0.0, error), np.nan)


def upper_tail(count: ArrayLike, distance: ArrayLike, error: ArrayLike) -> Floats:
    """P(T >= distance / error) for t with count - 1 degrees of freedom; nan where count < 2.

    Without any spread the tail is 0 for a positive distance, 1 for a negative one, 1/2 for zero.
    """
    away, spread = np.broadcast_arrays(np.asarray(distance, dtype=float), np.asarray(error, dtype=float))
    degrees = np.asarray(count, dtype=float) - 1.0
    sign = np.where(np.abs(away) <= _ROUNDING, 0.0, np.sign(away))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(spread > 0, away / spread, np.where(sign == 0, 0.0, sign * np.inf))
        tail = special.stdtr(np.maximum(degrees, 1.0), -statistic)
    return np.where((degrees >= 1) & np.isfinite(spread), tail, np.nan)


def p_against(count: ArrayLike, mean: ArrayLike, deviation: ArrayLike, margin: float = 0.0) -> Floats:
    """Two-sided p of a paired t test against "the mean lies within the margin"; nan where count < 2.

    With margin 0 this is the ordinary paired t test. It is below alpha exactly where the interval of level 1 - alpha
    lies wholly beyond the margin on one side.
    """
    error = standard_error(count, deviation)
    distance = np.abs(np.asarray(mean, dtype=float)) - margin
    return np.asarray(np.minimum(1.0, 2 * upper_tail(count, distance, error)))


def sign_flip_p(differences: Floats) -> float | None:
    """Exact two-sided p of the mean under every flip of the signs of (n,) differences (Fisher 1935).

    Its smallest possible value is 2 / 2^n. None for n = 0 and for n > 30, where it adds nothing to t. The trials are
    split into two halves, so that the exact count needs 2^(n/2) sums instead of 2^n.
    """
    n = len(differences)
    if not 0 < n <= 30:
        return None
    left, right = _signed_sums(differences[: n // 2]), np.sort(_signed_sums(differences[n // 2 :]))
    total = abs(float(differences.sum()))
    bar = total - 1e-12 * (float(np.abs(differences).sum()) + 1e-300)
    if bar <= 0:
        return 1.0
    above = len(right) - np.searchsorted(right, bar - left, side="left")
    below = np.searchsorted(right, -bar - left, side="right")
    return float((above.sum() + below.sum()) / 2.0**n)


def _signed_sums(values: Floats) -> Floats:
    """All 2^n sums of +-values."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def sign_flip_ps(differences: Floats, starts: Integers, counts: Integers) -> Floats:
    """`sign_flip_p` of k comparisons: comparison i holds differences[starts[i] : starts[i] + counts[i]].

    Shape (k,); nan where the test does not exist. Small samples with equal numbers are handled together.
    """
    result = np.full(len(counts), np.nan)
    for n in np.unique(counts[(counts > 0) & (counts <= 30)]):
        rows = np.flatnonzero(counts == n)
        if n > 11:
            result[rows] = [sign_flip_p(differences[starts[i] : starts[i] + n]) for i in rows]
            continue
        signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)  # the last sign is fixed by symmetry
        for block in np.array_split(rows, 1 + len(rows) * len(signs) // 2_000_000):
            values = differences[starts[block][:, None] + np.arange(n)]
            bar = np.abs(values.sum(axis=1)) - 1e-12 * np.abs(values).sum(axis=1)
            result[block] = (np.abs(values @ signs.T) >= bar[:, None]).mean(axis=1)
    return result
