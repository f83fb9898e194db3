"""How many trials: for an undecided comparison, and for a sweep that has not run.

All effects and deviations are on the log scale (0.03 is about 3 %); a deviation is that of trials'
differences d. The chance of success is computed from t quantiles, the usual approximation to the
noncentral t: n trials succeed with probability `power` where
`distance >= (t[1 - level/2] + t[power]) deviation / sqrt(n)`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from raybench.analysis.inference import Floats, Integers, t_quantile

POWER: Final = 0.8
MOST_TRIALS: Final = 100_000


def trials_needed(
    count: ArrayLike,
    mean: ArrayLike,
    deviation: ArrayLike,
    *,
    margin: float,
    alpha: float,
    level: ArrayLike,
    power: float = POWER,
) -> Integers:
    """Trials in all with which a comparison would be settled with probability `power`; 0 where unknown.

    Arrays of shape (k,). "Settled" is either verdict that the present mean points to: beyond the margin
    (tested at Holm's `level`) or within it (two one-sided tests at alpha). Assumes that mean and deviation
    are what they seem: a plan, not a promise. 0 where count < 2 or where `MOST_TRIALS` would not do.
    """
    n, d, s, claim = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (count, mean, deviation, level)))
    beyond = np.abs(d) - margin
    distance = np.abs(beyond)
    tail = np.where(beyond > 0, claim / 2, alpha)
    # Within the margin both sides must be excluded; at a mean of 0 they are equally far.
    chance = np.where((beyond < 0) & (np.abs(d) < margin / 2), 1 - (1 - power) / 2, power)
    low, high = np.maximum(n, 1.0) + 1, np.full(n.shape, float(MOST_TRIALS))
    enough = _reaches(high, distance, s, tail, chance)
    while np.any(low < high):
        middle = np.floor((low + high) / 2)
        reached = _reaches(middle, distance, s, tail, chance)
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        low = np.minimum(low, high)
    return np.where((n >= 2) & enough, low, 0).astype(np.int64)


def _reaches(n: Floats, distance: Floats, deviation: Floats, tail: Floats, power: Floats) -> np.ndarray:
    width = t_quantile(n, tail) + t_quantile(n, 1 - power)
    return np.asarray(width * deviation / np.sqrt(n) <= distance)


def detectable_effect(trials: int, deviation: float, *, margin: float, alpha: float, power: float = POWER) -> float:
    """The least true speedup that n trials call `helps` with probability `power`; infinity for n < 2."""
    if trials < 2:
        return float("inf")
    width = t_quantile(trials, alpha / 2) + t_quantile(trials, 1 - power)
    return float(np.exp(margin + width * deviation / np.sqrt(trials)))


def stein_trials(pilot: int, deviation: float, half_width: float, alpha: float) -> int:
    """Trials in all (pilot included) for an interval of `half_width` at level 1 - alpha (Stein 1945).

    Only the pilot's deviation decides the number, and `stein_interval` goes on using it: so the level
    holds whatever the true deviation is, which "repeat until significant" cannot say. Needs pilot >= 2.
    """
    if pilot < 2:
        raise ValueError("Stein's rule needs a pilot of at least 2 trials")
    quantile = float(t_quantile(pilot, alpha / 2))
    return max(pilot, int(np.ceil((quantile * deviation / half_width) ** 2)))


def stein_interval(pilot: int, pilot_deviation: float, differences: Floats, alpha: float) -> tuple[float, float]:
    """Interval of level 1 - alpha for the mean of all (n,) differences after `stein_trials` chose n."""
    half = float(t_quantile(pilot, alpha / 2)) * pilot_deviation / np.sqrt(len(differences))
    mean = float(np.mean(differences))
    return mean - half, mean + half


def chance_of_claim(trials: int, deviation: float, *, margin: float, alpha: float, effect: float = 0.0) -> float:
    """The chance that n trials are judged `helps` or `hurts`, alone and uncorrected, at a true `effect`; 0 for n < 2.

    At effect 0 it is the rate of false verdicts; Holm over a sweep only lowers it.
    """
    if trials < 2:
        return 0.0
    if deviation <= 0:
        return float(abs(effect) > margin)
    error = deviation / np.sqrt(trials)
    reach = float(t_quantile(trials, alpha / 2)) * _sample_deviations(trials)
    beyond = [special.ndtr((side * effect - margin) / error - reach) for side in (1, -1)]
    return float(np.mean(beyond[0] + beyond[1]))


def chance_of_no_effect(trials: int, deviation: float, *, margin: float, alpha: float, effect: float = 0.0) -> float:
    """The chance that n trials are judged `no effect` (two one-sided tests) at a true `effect`; 0 for n < 2."""
    if trials < 2:
        return 0.0
    if deviation <= 0:
        return float(abs(effect) < margin)
    error = deviation / np.sqrt(trials)
    room = margin / error - float(t_quantile(trials, alpha)) * _sample_deviations(trials)
    inside = special.ndtr(room - effect / error) - special.ndtr(-room - effect / error)
    return float(np.mean(np.where(room > 0, inside, 0.0)))


def _sample_deviations(trials: int) -> Floats:
    """4,000 quantiles of the sample deviation over the true one, of normal differences.

    Given the sample deviation, the mean is normal and independent of it: a chance is an average over these
    (Phillips 1990).
    """
    tails = (np.arange(4000) + 0.5) / 4000
    return np.asarray(np.sqrt(special.chdtri(trials - 1, tails) / (trials - 1)))
