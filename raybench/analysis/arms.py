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

from raybench.analysis.estimate import number, ratio_estimate
from raybench.analysis.inference import Floats, t_interval, t_quantile
from raybench.analysis.results import VERDICTS, ArmSummary, Comparison, GroupSummary, Tally

# What `by=` may group by: attributes of a comparison that a setting has.
GROUPINGS = ("family", "dataset", "precision", "model", "global_batch", "workers", "hardware")


def summarize_arms(comparisons: Sequence[Comparison], alpha: float) -> tuple[ArmSummary, ...]:
    """One summary for each arm on each hardware, in the comparisons' order."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.where.hardware, comparison.arm), []).append(comparison)
    return tuple(summarize_arm(members, alpha) for members in groups.values())


def summarize_groups(comparisons: Sequence[Comparison], by: str, alpha: float) -> tuple[GroupSummary, ...]:
    """Each arm's summary by the values of one of `GROUPINGS`."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        key = (str(getattr(comparison.where, by)), comparison.where.hardware, comparison.arm)
        groups.setdefault(key, []).append(comparison)
    return tuple(GroupSummary(by, key[0], summarize_arm(members, alpha)) for key, members in groups.items())


def summarize_arm(comparisons: Sequence[Comparison], alpha: float) -> ArmSummary:
    """The summary of one arm's comparisons, one a setting; at least one."""
    compared = [c for c in comparisons if c.speedup.value is not None and c.verdict != "not comparable"]
    logs = np.log(np.array([c.speedup.value for c in compared], dtype=float))
    deviations = np.array(
        [np.nan if c.judgement.deviation is None else c.judgement.deviation for c in compared], dtype=float
    )
    counts = np.array([c.n_trials for c in compared], dtype=float)
    k, mean = len(logs), float(logs.mean()) if len(logs) else np.nan
    spread = float(logs.std(ddof=1)) if k >= 2 else np.nan
    low, high = t_interval(k, mean, spread, alpha)
    reach = float(t_quantile(k, alpha / 2)) * spread * np.sqrt(1 + 1 / k) if k >= 2 else np.nan
    fixed_low, fixed_high = fixed_set_interval(logs, deviations, counts, alpha)
    tau, i_squared = heterogeneity(logs, deviations, counts)
    quartiles = np.quantile(logs, [0.25, 0.5, 0.75]) if k else np.full(3, np.nan)
    counts_of = Counter(c.verdict for c in comparisons)
    return ArmSummary(
        arm=comparisons[0].arm,
        hardware=comparisons[0].where.hardware,
        n_settings=len(comparisons),
        n_compared=k,
        population=ratio_estimate(mean, float(low), float(high), level=1 - alpha, n=k),
        prediction=ratio_estimate(mean, mean - reach, mean + reach, level=1 - alpha, n=k),
        fixed=ratio_estimate(mean, fixed_low, fixed_high, level=1 - alpha, n=k),
        quartiles=ratio_estimate(quartiles[1], quartiles[0], quartiles[2], level=0.5, n=k),
        tau=number(tau),
        i_squared=number(i_squared),
        tally=Tally(**{verdict.replace(" ", "_"): counts_of[verdict] for verdict in VERDICTS}),
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
