"""How many trials are needed: for an undecided comparison, and for a sweep that has not run.

All effects and deviations are on the log scale (0.03 is about 3 %); a deviation is that of trials' differences d. The
rule is that of `raybench.statistics.claims`, at `level`: the corrected level for one comparison, alpha / k before
anything is known about k comparisons.

Given the estimate of the noise, the mean of normal differences is normal and independent of it, so a chance is an
average over the possible estimates. For a comparison with its own variance this is the noncentral t
(`tests/statistics/test_power.py` compares it with SciPy's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from raybench.statistics.moderation import LEAST_COMPARISONS, Integers, Variance
from raybench.statistics.multiplicity import Floats

POWER: Final = 0.8
MOST_TRIALS: Final = 100_000
# d0 of `raybench.statistics.moderation` before a sweep has run: results/paper and results/zero give 3 to 6.
USUAL_PRIOR_DEGREES: Final = 4.0


@dataclass(frozen=True)
class Chances:
    """The chance of each verdict, for one comparison at a true effect."""

    helps: float
    hurts: float
    no_effect: float


def prior_degrees(comparisons: int, variance: Variance) -> float:
    """The degrees of freedom that a sweep with this many comparisons is expected to lend to each of them."""
    return USUAL_PRIOR_DEGREES if variance == "moderated" and comparisons >= LEAST_COMPARISONS else 0.0


def chances(
    trials: int, deviation: float, *, margin: float, level: float, effect: float = 0.0, lent: float = 0.0
) -> Chances:
    """The chances of the verdicts after n trials at a true `effect`; `lent` degrees of freedom come from a prior.

    The comparison scatters as its sweep does: the prior's variance is its own.
    """
    if trials < 2:
        return Chances(0.0, 0.0, 0.0)
    if deviation <= 0:
        return Chances(float(effect > margin), float(effect < -margin), float(abs(effect) < margin))
    error = deviation / np.sqrt(trials)
    found = _estimated_errors(trials, lent) * error
    degrees = lent + trials - 1
    reach = -special.stdtrit(degrees, level / 2) * found
    helps, hurts = (_beyond(side * effect - margin, reach, error) for side in (1, -1))
    room = _room(found, degrees, margin, level)
    inside = special.ndtr((room - effect) / error) - special.ndtr((-room - effect) / error)
    return Chances(helps, hurts, float(np.mean(np.where(room > 0, inside, 0.0))))


def _beyond(distance: float, reach: Floats, error: float) -> float:
    """The chance that a mean lies beyond the margin by more than `reach`, if `distance` beyond it is expected."""
    return float(np.mean(special.ndtr((distance - reach) / error)))


def detectable_effect(
    trials: int, deviation: float, *, margin: float, level: float, power: float = POWER, lent: float = 0.0
) -> float:
    """The smallest true speedup (a ratio) that n trials call `helps` with probability `power`; infinity for n < 2."""
    if trials < 2:
        return float("inf")
    if deviation <= 0:
        return float(np.exp(margin))

    error = deviation / np.sqrt(trials)
    reach = -special.stdtrit(lent + trials - 1, level / 2) * _estimated_errors(trials, lent) * error
    far = deviation
    while _beyond(far, reach, error) < power:
        far *= 2
    near = 0.0
    for _ in range(50):  # bisection: importing scipy.optimize would cost every command a fifth of a second
        middle = (near + far) / 2
        near, far = (near, middle) if _beyond(middle, reach, error) >= power else (middle, far)
    with np.errstate(over="ignore"):
        return float(np.exp(margin + far))


def trials_needed(
    count: ArrayLike,
    mean: ArrayLike,
    deviation: ArrayLike,
    degrees: ArrayLike,
    *,
    margin: float,
    level: ArrayLike,
    power: float = POWER,
) -> Integers:
    """Total trials with which a comparison would be settled, by any verdict, with probability `power`.

    Arrays of shape (k,); `deviation` and its `degrees` of freedom are those that the comparison was judged by. These
    are uncertain, most of all after 3 trials, so the chance is the predictive one: over the possible true scatter
    (scaled inverse chi-squared) and the future mean (normal around the mean so far). The trials so far count. 0 where
    count < 2 or where `MOST_TRIALS` would not suffice.
    """
    n, d, s, df, a = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (count, mean, deviation, degrees, level))
    )
    known = (n >= 2) & (df > 0) & np.isfinite(s)
    result = np.zeros(n.shape, dtype=np.int64)
    for rows in np.array_split(np.flatnonzero(known), 1 + np.count_nonzero(known) // 2000):
        result[rows] = _search(n[rows], d[rows], s[rows], df[rows], a[rows], margin, power)
    return result


def _search(n: Floats, d: Floats, s: Floats, df: Floats, a: Floats, margin: float, power: float) -> Integers:
    low, high = n + 1, np.full(n.shape, float(MOST_TRIALS))
    enough = _chance_to_settle(high, n, d, s, df, a, margin) >= power
    while np.any(low < high):
        middle = np.floor(np.sqrt(low * high))
        reached = _chance_to_settle(middle, n, d, s, df, a, margin) >= power
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        low = np.minimum(low, high)
    return np.where(enough, low, 0).astype(np.int64)


def _chance_to_settle(trials: Floats, n: Floats, d: Floats, s: Floats, df: Floats, a: Floats, margin: float) -> Floats:
    """The predictive chance of any verdict with this many trials, (k,)."""
    true = s[:, None] * np.sqrt(df[:, None] / special.chdtri(df[:, None], _QUANTILES))
    degrees = df + trials - n
    # The estimate by then: the present one, and the new trials' squares at their mean.
    found = np.sqrt(((df * s**2)[:, None] + (trials - n)[:, None] * true**2) / degrees[:, None])
    error = found / np.sqrt(trials)[:, None]
    ahead = np.maximum(true * np.sqrt(1 / n - 1 / trials)[:, None], 1e-300)
    reach = -special.stdtrit(degrees, a / 2)[:, None] * error
    room = margin - reach  # `claim_p` is slightly stricter where this is narrow
    centre = d[:, None]
    beyond = special.ndtr((centre - margin - reach) / ahead) + special.ndtr((-centre - margin - reach) / ahead)
    within = special.ndtr((room - centre) / ahead) - special.ndtr((-room - centre) / ahead)
    return np.asarray(np.mean(beyond + np.where(room > 0, within, 0.0), axis=1))


_QUANTILES: Final = (np.arange(20) + 0.5) / 20


def _room(error: Floats, degrees: ArrayLike, margin: float, level: ArrayLike) -> Floats:
    """How far from 0 a mean is still called `no effect`, given the error; not above 0 where it never is.

    It lies between the two one-sided tests at `level` and at level / 2, as in `claim_p`.
    """
    df, a = np.asarray(degrees, dtype=float), np.asarray(level, dtype=float)
    near, far = (margin + special.stdtrit(df, part) * error for part in (a, a / 2))
    # Given the error, a claim up to `room` is wrong at the margin with T(v) - T(2 margin / error - v): half the level.
    low, high = np.maximum(far, 0.0), near
    for _ in range(25):
        middle = (low + high) / 2
        chance = special.stdtr(df, (middle - margin) / error) - special.stdtr(df, -(margin + middle) / error)
        low, high = np.where(chance <= a / 2, middle, low), np.where(chance <= a / 2, high, middle)
    return np.where(near > 0, np.minimum(low, near), near)


def _estimated_errors(trials: int, lent: float) -> Floats:
    """4,000 quantiles of the ratio of estimated to true deviation, for normal differences."""
    quantiles = (np.arange(4000) + 0.5) / 4000
    squares = special.chdtri(trials - 1, quantiles)
    return np.asarray(np.sqrt((lent + squares) / (lent + trials - 1)))
