"""Which claims may be made about comparisons, over all of a sweep: the one procedure behind every verdict.

A comparison's true effect theta (a log speedup) lies above the margin m (`helps`), below -m (`hurts`) or within it
(`no effect`). At most one of the three is claimed. With the estimate d, its standard error s (moderated, see
`raybench.statistics.moderation`), T(x) = P(t > x) for the error's degrees of freedom:

    helps      2 T((d - m) / s)                                  the 1 - p interval lies above m
    hurts      2 T((-d - m) / s)                                 the 1 - p interval lies below -m
    no effect  max(T(v), 2 (T(v) - T(v + 2 |d| / s)))            v = (m - |d|) / s
               the 1 - 2p interval lies within (two one-sided tests, Schuirmann 1987), and ...

The p value of a comparison is the smallest of the three. The chance of a *wrong* claim at level a, for any theta:
within the margin, where `helps` and `hurts` are wrong, at most a / 2 each. Beyond it, and at it, `no effect` is wrong.
At exactly the margin `helps` is wrong too, with a / 2, so `no effect` may have the other a / 2. Its second term ensures
that. Given s, d falls into the region of the claim, (-(m - v s), m - v s), with probability T(v) - T(2 m / s - v) where
theta = m, and at the edge of the claim 2 m / s - v = v + 2 |d| / s. Where the region is wide this is T(v), and the 1 -
p interval must lie within the margin; where it is narrow the two one-sided tests are the stricter limit. So in total
P(wrong) <= a at every theta, and no factor 3 is needed.

Over comparisons, Holm or Benjamini and Hochberg run on these p values (`raybench.statistics.multiplicity`). A claim is
made exactly where the adjusted p is at most alpha. The interval drawn has the level at which the comparison was
tested: beyond the margin exactly for `helps` and `hurts`, within it exactly for `no effect`.

Everything works along the last axis, so that thousands of sweeps can be judged at once. No ray, torch or mlflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from raybench.statistics.moderation import Integers, Mask, Variance, moderate
from raybench.statistics.multiplicity import Floats, Multiplicity, adjust, levels

HELPS: Final = "helps"
NO_EFFECT: Final = "no effect"
HURTS: Final = "hurts"
UNDECIDED: Final = "undecided"

_ROUNDING: Final = 1e-13  # trials' differences closer than this are equal up to rounding


@dataclass(frozen=True)
class Rule:
    """The rule that judges a sweep's comparisons."""

    margin: float  # log scale, above 0
    alpha: float
    multiplicity: Multiplicity = "holm"
    variance: Variance = "moderated"


@dataclass(frozen=True)
class Claims:
    """The claims about k comparisons; arrays of shape (..., k), nan where count < 2."""

    verdict: NDArray[np.str_]
    p_adjusted: Floats  # of the claim: at most alpha exactly where one is made
    low: Floats  # the interval behind the verdict, log scale
    high: Floats
    confidence: Floats  # its level, e.g. 0.95
    level: Floats  # the corrected level for this comparison
    deviation: Floats  # used for the verdict, with its degrees of freedom
    degrees: Floats


def tail(degrees: ArrayLike, distance: ArrayLike, error: ArrayLike) -> Floats:
    """P(t >= distance / error); nan where there are no degrees of freedom.

    Without any spread it is 0 for a positive distance, 1 for a negative one, 1/2 for zero.
    """
    df, away, spread = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (degrees, distance, error)))
    sign = np.where(np.abs(away) <= _ROUNDING, 0.0, np.sign(away))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(spread > _ROUNDING, away / spread, np.where(sign == 0, 0.0, sign * np.inf))
        below = special.stdtr(np.where(df > 0, df, 1.0), -statistic)
    return np.where((df > 0) & np.isfinite(spread), below, np.nan)


def claim_p(mean: ArrayLike, error: ArrayLike, degrees: ArrayLike, margin: float) -> Floats:
    """The p value of the best claim, see the module's docstring; nan where there are no degrees of freedom."""
    size = np.abs(np.asarray(mean, dtype=float))
    beyond = 2 * tail(degrees, size - margin, error)
    one_sided = tail(degrees, margin - size, error)
    within = np.maximum(one_sided, 2 * (one_sided - tail(degrees, margin + size, error)))
    return np.asarray(np.minimum(1.0, np.minimum(beyond, within)))


def judge(
    count: ArrayLike,
    mean: ArrayLike,
    deviation: ArrayLike,
    rule: Rule,
    *,
    arm: Integers | None = None,
    hardware: Integers | None = None,
    allowed: Mask | None = None,
    standing: Mask | None = None,
) -> Claims:
    """The claims about k comparisons, from the number, mean and sample standard deviation of trials, shape (..., k).

    `arm` and `hardware` are codes, (k,), for the variances. `allowed` says which comparisons may claim anything and so
    count in the family; by default all. `standing` marks those that an earlier look has claimed: they count in the
    family as claimed, and get `undecided` here.
    """
    n, d, s = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (count, mean, deviation)))
    if rule.variance == "moderated":
        spread, degrees = moderate(n, s, arm, hardware)
    else:
        spread, degrees = np.where(n >= 2, s, np.nan), np.where(n >= 2, n - 1, 0.0)
    error = spread / np.sqrt(np.maximum(n, 1.0))
    p = claim_p(d, error, degrees, rule.margin)
    if allowed is not None:
        p = np.where(allowed, p, np.nan)
    earlier = np.zeros(p.shape, dtype=bool) if standing is None else standing & ~np.isnan(p)
    family = np.where(earlier, 0.0, p)
    adjusted = adjust(family, rule.multiplicity)
    level = levels(family, rule.alpha, rule.multiplicity)
    claimed = (adjusted <= rule.alpha) & ~earlier
    inside = claimed & (np.abs(d) < rule.margin)
    verdict = np.select([inside, claimed & (d > 0), claimed & (d < 0)], [NO_EFFECT, HELPS, HURTS], UNDECIDED)
    one_sided = tail(degrees, rule.margin - np.abs(d), error)
    width = np.where(inside & (2 * one_sided > level), 2 * level, level)
    low, high = interval(d, error, degrees, width)
    return Claims(verdict, np.where(earlier, np.nan, adjusted), low, high, 1 - width, level, spread, degrees)


def interval(mean: ArrayLike, error: ArrayLike, degrees: ArrayLike, alpha: ArrayLike) -> tuple[Floats, Floats]:
    """Two-sided t interval of level 1 - alpha; (nan, nan) without degrees of freedom."""
    centre, spread, df = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (mean, error, degrees)))
    quantile = -special.stdtrit(np.where(df > 0, df, 1.0), np.asarray(alpha, dtype=float) / 2)
    half = np.where(df > 0, quantile * np.where(spread <= _ROUNDING, 0.0, spread), np.nan)
    return np.asarray(centre - half), np.asarray(centre + half)
