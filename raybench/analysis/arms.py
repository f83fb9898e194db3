"""An arm over many settings: two questions, two answers, and never an arithmetic mean of ratios.

*These settings*: the geometric mean of exactly these, uncertain only by the noise of their trials (fixed
set; Satterthwaite degrees of freedom). *Settings like these*: t on the settings' mean log speedups, with
the prediction interval `mean +- t sd sqrt(1 + 1/k)`, which is what a reader with one more model wants.
Only comparisons with a speedup, of the same experiment, enter; the rest are counted by verdict.

Sources: Fleming and Wallace 1986 (geometric means); DerSimonian and Laird 1986 (tau); Higgins and Thompson
2002 (I squared); Satterthwaite 1946.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import special

from raybench.analysis.inference import Floats, t_interval, t_quantile
from raybench.analysis.results import ArmSummary, Comparison, GroupSummary, number, ratio

# What `by=` may group by: attributes of a comparison that a setting has.
TALLIES = {
    "helps": "helps",
    "no effect": "no_effect",
    "hurts": "hurts",
    "undecided": "undecided",
    "unlocks": "unlocks",
    "blocked": "blocked",
    "both failed": "both_failed",
    "not comparable": "not_comparable",
}
GROUPINGS = ("family", "dataset", "precision", "model", "global_batch", "workers", "hardware")


def summarize_arms(comparisons: Sequence[Comparison], alpha: float) -> tuple[ArmSummary, ...]:
    """One summary for each arm on each hardware, in the comparisons' order."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.hardware, comparison.arm), []).append(comparison)
    return tuple(summarize_arm(members, alpha) for members in groups.values())


def summarize_groups(comparisons: Sequence[Comparison], by: str, alpha: float) -> tuple[GroupSummary, ...]:
    """Each arm's summary by the values of one of `GROUPINGS`."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        key = (str(getattr(comparison, by)), comparison.hardware, comparison.arm)
        groups.setdefault(key, []).append(comparison)
    return tuple(GroupSummary(by, key[0], summarize_arm(members, alpha)) for key, members in groups.items())


def summarize_arm(comparisons: Sequence[Comparison], alpha: float) -> ArmSummary:
    """The summary of one arm's comparisons, one a setting; at least one."""
    compared = [c for c in comparisons if c.speedup is not None and c.verdict != "not comparable"]
    logs = np.log(np.array([c.speedup for c in compared], dtype=float))
    deviations = np.array([np.nan if c.deviation is None else c.deviation for c in compared], dtype=float)
    counts = np.array([c.n_trials for c in compared], dtype=float)
    k, mean = len(logs), float(logs.mean()) if len(logs) else np.nan
    spread = float(logs.std(ddof=1)) if k >= 2 else np.nan
    low, high = t_interval(k, mean, spread, alpha)
    reach = float(t_quantile(k, alpha / 2)) * spread * np.sqrt(1 + 1 / k) if k >= 2 else np.nan
    fixed_low, fixed_high = fixed_set_interval(logs, deviations, counts, alpha)
    tau, i_squared = heterogeneity(logs, deviations, counts)
    quartiles = np.quantile(logs, [0.25, 0.5, 0.75]) if k else np.full(3, np.nan)
    tally = Counter(c.verdict for c in comparisons)
    return ArmSummary(
        arm=comparisons[0].arm,
        hardware=comparisons[0].hardware,
        n_settings=len(comparisons),
        n_compared=k,
        geometric_mean=ratio(mean),
        ci_low=ratio(float(low)),
        ci_high=ratio(float(high)),
        prediction_low=ratio(mean - reach),
        prediction_high=ratio(mean + reach),
        fixed_low=ratio(fixed_low),
        fixed_high=ratio(fixed_high),
        quartile_low=ratio(quartiles[0]),
        median=ratio(quartiles[1]),
        quartile_high=ratio(quartiles[2]),
        tau=number(tau),
        i_squared=number(i_squared),
        **{field: tally[verdict] for verdict, field in TALLIES.items()},
    )


def fixed_set_interval(logs: Floats, deviations: Floats, counts: Floats, alpha: float) -> tuple[float, float]:
    """Interval of level 1 - alpha for the mean of these settings' true log speedups, arrays of shape (k,).

    Nan where a setting has fewer than 2 trials, since its noise is then not known.
    """
    k = len(logs)
    if k == 0 or not np.all(counts >= 2):
        return np.nan, np.nan
    parts = deviations**2 / counts / k**2
    variance, mean = parts.sum(), logs.mean()
    if variance == 0:
        return float(mean), float(mean)
    degrees = variance**2 / np.sum(parts**2 / (counts - 1))
    half = float(special.stdtrit(degrees, 1 - alpha / 2)) * np.sqrt(variance)
    return float(mean - half), float(mean + half)


def heterogeneity(logs: Floats, deviations: Floats, counts: Floats) -> tuple[float, float]:
    """(tau, I squared) of k settings' log speedups; nan where fewer than 2 have an error of their own.

    Settings with fewer than 2 trials, or with no spread at all, have no weight and are left out.
    """
    usable = (counts >= 2) & (deviations > 0)
    y, variance = logs[usable], deviations[usable] ** 2 / counts[usable]
    if len(y) < 2:
        return np.nan, np.nan
    weights = 1 / variance
    mean = np.sum(weights * y) / weights.sum()
    q, degrees = np.sum(weights * (y - mean) ** 2), len(y) - 1
    scale = weights.sum() - np.sum(weights**2) / weights.sum()
    tau_squared = max(0.0, (q - degrees) / scale)
    return float(np.sqrt(tau_squared)), float(max(0.0, (q - degrees) / q)) if q > 0 else 0.0
