"""From the differences of trials to intervals, p values and verdicts: pure functions over arrays.

Everything here works on one summary of each comparison, in arrays of shape (k,), one entry a comparison:
`count` trials, the `mean` of their differences d (log ratios: baseline minus arm, so above 0 the arm is
faster) and their sample standard deviation `deviation`. Only trials are samples: steps, ranks and rounds
have been averaged away before (see `raybench.analysis.pairs`).

How Holm and the intervals fit together. Three statements are made of a comparison:

1. `ci_low, ci_high`: the plain paired-t interval of level 1 - alpha. It says how large the effect is.
2. `p_value, p_adjusted`: paired t against "no difference at all", adjusted by Holm over the analysis.
3. The verdict, which claims more than a difference: an effect *beyond the margin*. Its p value is
   therefore taken against the margin, `2 min(P(mean <= m), P(mean >= -m))`, which is below alpha exactly
   where the interval of level 1 - alpha lies beyond the margin: alone, a comparison is judged by
   method.md's rule. Over many, Holm runs on these p values, so that the chance of even one false
   `helps` or `hurts` in a sweep stays at alpha wherever the true effects lie within the margin (Holm on
   the p values of 2. would leave a true effect *at* the margin uncorrected).

Holm stops at a step; a comparison rejected at a step that tests at alpha/j is drawn with its interval of
level 1 - alpha/j, and everything not rejected with that of the step at which Holm stopped. This *verdict
interval* lies beyond the margin exactly for `helps` and `hurts`. Where the interval of level 1 - 2 alpha
lies within the margin (two one-sided tests, Schuirmann 1987), the verdict is `no effect` and that one is
the verdict interval. So text and picture cannot disagree.

Sources: Holm 1979; Schuirmann 1987; Welch 1947 and Satterthwaite 1946; Stein 1945.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

HELPS: Final = "helps"
NO_EFFECT: Final = "no effect"
HURTS: Final = "hurts"
UNDECIDED: Final = "undecided"

# Differences of trials closer than this are the same number but for rounding.
_ROUNDING: Final = 1e-13


def t_quantile(count: ArrayLike, tail: ArrayLike) -> Floats:
    """Student's t with count - 1 degrees of freedom that leaves `tail` above it; nan where count < 2."""
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

    With no spread at all the tail is 0 for a positive distance, 1 for a negative one, 1/2 for none.
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

    With margin 0 this is the ordinary paired t test. Below alpha exactly where the interval of level
    1 - alpha lies wholly on one side beyond the margin.
    """
    error = standard_error(count, deviation)
    distance = np.abs(np.asarray(mean, dtype=float)) - margin
    return np.asarray(np.minimum(1.0, 2 * upper_tail(count, distance, error)))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment; nan entries are no tests: they stay nan and do not count."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * steps))
    return adjusted


def holm_levels(p_values: ArrayLike, alpha: float) -> Floats:
    """The level at which Holm tests each entry: alpha/j at its step, or that of the step where Holm stops.

    An entry is rejected exactly where its p is below its level. nan entries are given alpha.
    """
    p = np.asarray(p_values, dtype=float)
    levels = np.full(p.shape, float(alpha))
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    if len(order):
        steps = alpha / np.arange(len(order), 0, -1)
        kept = np.flatnonzero(p[order] >= steps)
        if len(kept):
            steps[kept[0] :] = steps[kept[0]]
        levels[order] = steps
    return levels


@dataclass(frozen=True)
class Judgement:
    """What may be said of k comparisons; arrays of shape (k,), on the log scale, nan where count < 2."""

    low: Floats  # plain interval of level 1 - alpha
    high: Floats
    p_value: Floats  # paired t against no difference
    p_adjusted: Floats  # Holm over those that have one
    level: Floats  # what Holm leaves of alpha for this comparison's claim
    verdict: NDArray[np.str_]
    verdict_low: Floats  # the interval that the verdict came from
    verdict_high: Floats
    verdict_confidence: Floats  # its level, e.g. 0.95


def judge(
    count: ArrayLike,
    mean: ArrayLike,
    deviation: ArrayLike,
    *,
    margin: float,
    alpha: float,
    claims: NDArray[np.bool_] | None = None,
) -> Judgement:
    """Intervals, p values and verdicts of k comparisons; `margin` is on the log scale.

    `claims` says which comparisons may claim an effect and so count in Holm's family of claims (all by
    default); the others get no verdict but `undecided`. See the module's docstring for the rule.
    """
    n, d, s = np.asarray(count), np.asarray(mean, dtype=float), np.asarray(deviation, dtype=float)
    allowed = np.ones(n.shape, dtype=bool) if claims is None else claims
    low, high = t_interval(n, d, s, alpha)
    p_value = p_against(n, d, s)
    p_claim = np.where(allowed, p_against(n, d, s, margin), np.nan)
    level = holm_levels(p_claim, alpha)
    claimed = p_claim < level
    inner_low, inner_high = t_interval(n, d, s, 2 * alpha)
    inside = allowed & (inner_low > -margin) & (inner_high < margin)
    verdict = np.select([claimed & (d > 0), claimed & (d < 0), inside], [HELPS, HURTS, NO_EFFECT], UNDECIDED)
    width = np.where(inside, 2 * alpha, level)
    verdict_low, verdict_high = t_interval(n, d, s, width)
    return Judgement(low, high, p_value, holm(p_value), level, verdict, verdict_low, verdict_high, 1 - width)


def sign_flip_p(differences: Floats) -> float | None:
    """Exact two-sided p of the mean under every flip of the signs of (n,) differences (Fisher 1935).

    The least value it can take is 2 / 2^n. None for n = 0 and for n > 30, where it adds nothing to t.
    Counted exactly by splitting the trials into two halves, so that 2^(n/2) sums are made, not 2^n.
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

    Shape (k,); nan where the test does not exist. Small samples are done together, by their number.
    """
    result = np.full(len(counts), np.nan)
    for n in np.unique(counts[(counts > 0) & (counts <= 30)]):
        rows = np.flatnonzero(counts == n)
        if n > 11:
            result[rows] = [sign_flip_p(differences[starts[i] : starts[i] + n]) for i in rows]
            continue
        signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)  # the last sign is fixed: symmetry
        for block in np.array_split(rows, 1 + len(rows) * len(signs) // 2_000_000):
            values = differences[starts[block][:, None] + np.arange(n)]
            bar = np.abs(values.sum(axis=1)) - 1e-12 * np.abs(values).sum(axis=1)
            result[block] = (np.abs(values @ signs.T) >= bar[:, None]).mean(axis=1)
    return result
