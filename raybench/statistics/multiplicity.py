"""Many claims at once: adjusted p values, and the levels that correspond to them.

`holm` keeps the chance of any wrong claim in a sweep at alpha, under any dependence (Holm 1979). `fdr` keeps the
expected share of wrong claims among the claims made at alpha (Benjamini and Hochberg 1995), for independent
comparisons, and for positively dependent ones such as the arms of one baseline.

Everything works along the last axis: arrays of shape (..., k) hold k comparisons of one sweep in each row. An entry
that is nan is not a test: it stays nan and does not count.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Multiplicity = Literal["holm", "fdr"]
MULTIPLICITIES: Final[tuple[Multiplicity, ...]] = ("holm", "fdr")


def adjust(p_values: ArrayLike, multiplicity: Multiplicity = "holm") -> Floats:
    """Adjusted p values: an entry is claimed at level alpha exactly where its adjusted p is at most alpha."""
    p = np.asarray(p_values, dtype=float)
    if not p.size:
        return p
    order = np.argsort(p, axis=-1, kind="stable")  # nan last
    ordered = np.take_along_axis(p, order, axis=-1)
    tests = np.count_nonzero(~np.isnan(p), axis=-1, keepdims=True)
    rank = np.arange(p.shape[-1])
    if multiplicity == "holm":
        stepped = np.maximum.accumulate(ordered * np.maximum(tests - rank, 1), axis=-1)
    else:
        scaled = np.where(np.isnan(ordered), np.inf, ordered * tests / (rank + 1))
        stepped = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1.0, stepped), axis=-1)
    return np.where(np.isnan(p), np.nan, adjusted)


def levels(p_values: ArrayLike, alpha: float, multiplicity: Multiplicity = "holm") -> Floats:
    """The level at which each entry is tested and its interval drawn. Entries that are no tests get alpha.

    Holm: alpha / j at the entry's own step, and the level of the step where Holm stops for everything not claimed.
    Benjamini and Hochberg: alpha R / k with R claims (the level that keeps the share of misses among intervals of
    selected comparisons; Benjamini and Yekutieli 2005), and alpha / k without any.
    """
    p = np.asarray(p_values, dtype=float)
    if not p.size:
        return p
    claimed = adjust(p, multiplicity) <= alpha
    tests = np.maximum(np.count_nonzero(~np.isnan(p), axis=-1, keepdims=True), 1)
    claims = np.count_nonzero(claimed, axis=-1, keepdims=True)
    if multiplicity == "fdr":
        level = alpha * np.maximum(claims, 1) / tests * np.ones_like(p)
    else:
        rank = np.argsort(np.argsort(p, axis=-1, kind="stable"), axis=-1, kind="stable")
        level = alpha / np.maximum(tests - np.minimum(rank, claims), 1)
    return np.where(np.isnan(p), alpha, level)
