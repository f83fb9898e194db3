"""An arm over many settings: two questions, two answers, and never an arithmetic mean of ratios.

*These settings*: the geometric mean of exactly these settings. Only the noise of their trials makes it uncertain
(fixed set; Satterthwaite degrees of freedom). It gives the arm's verdict, by the same rule as for a comparison
(`raybench.statistics.claims`); the arms are their own family of claims.

*Settings like these*: settings of one model are not independent, so each model's settings are averaged first and the
model is the sample. The mean of such models has a t interval. One more model has a prediction interval, which is what
a reader with another model needs. Families of models may differ. The prediction for a model of a measured family uses
that family's mean and the scatter within families; for a model of a new family it uses the families' means and the
scatter both between and within families.

Only comparisons with a speedup and of the same experiment enter; the others are counted by verdict.

Sources: Fleming and Wallace 1986 (geometric means); DerSimonian and Laird 1986 (tau); Higgins and Thompson
2002 (I squared); Satterthwaite 1946; Searle, Casella and McCulloch 1992 (variance components).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from raybench.analysis.results import VERDICTS, ArmSummary, Comparison, FamilyPrediction, GroupSummary, Tally, Verdict
from raybench.statistics.claims import Rule, claim_p, interval
from raybench.statistics.estimate import Estimate, number, ratio_estimate
from raybench.statistics.inference import Floats, t_interval
from raybench.statistics.multiplicity import adjust, levels

# Share of alpha for arms of a sweep that stops when settled: stopping early exaggerates effects, and so their mean.
# Simulated at the margin, with 4 to 27 settings: 7 to 9 % wrong verdicts at a nominal 5 %, 3 to 5 % with this share.
STOPPED_SHARE = 0.4
# The attributes that `by=` may group comparisons by.
GROUPINGS = ("family", "dataset", "precision", "model", "global_batch", "workers", "hardware")


def summarize_arms(comparisons: Sequence[Comparison], rule: Rule, *, stops: bool = False) -> tuple[ArmSummary, ...]:
    """One summary per arm and hardware, in the comparisons' order. `stops`: the sweep stops when settled."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.where.hardware, comparison.arm), []).append(comparison)
    return _judged([summarize_arm(members, rule) for members in groups.values()], list(groups.values()), rule, stops)


def summarize_groups(
    comparisons: Sequence[Comparison], by: str, rule: Rule, *, stops: bool = False
) -> tuple[GroupSummary, ...]:
    """Each arm's summary for each value of one of `GROUPINGS`; together they are one family of claims."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        key = (str(getattr(comparison.where, by)), comparison.where.hardware, comparison.arm)
        groups.setdefault(key, []).append(comparison)
    found = _judged([summarize_arm(members, rule) for members in groups.values()], list(groups.values()), rule, stops)
    return tuple(GroupSummary(by, key[0], summary) for key, summary in zip(groups, found, strict=True))


def summarize_arm(comparisons: Sequence[Comparison], rule: Rule) -> ArmSummary:
    """The summary of one arm's comparisons, one per setting, at least one; its verdict is left `undecided`."""
    compared, logs, deviations, counts = _numbers(comparisons)
    k, alpha, level = len(logs), rule.alpha, 1 - rule.alpha
    fixed_low, fixed_high = fixed_set_interval(logs, deviations, counts, alpha)
    models = average_models(logs, [c.where.model for c in compared], [c.where.family for c in compared])
    low, high = models.interval(alpha)
    tau, i_squared = heterogeneity(logs, deviations, counts)
    mean = float(logs.mean()) if k else np.nan
    quartiles = np.quantile(logs, [0.25, 0.5, 0.75]) if k else np.full(3, np.nan)
    counts_of = Counter(c.verdict for c in comparisons)
    centre, new_low, new_high = models.predict_new_family(alpha)
    fixed = ratio_estimate(mean, fixed_low, fixed_high, level=level, n=k)
    return ArmSummary(
        arm=comparisons[0].arm,
        hardware=comparisons[0].where.hardware,
        n_settings=len(comparisons),
        n_compared=k,
        population=ratio_estimate(models.mean, low, high, level=level, n=len(models.values)),
        prediction=ratio_estimate(centre, new_low, new_high, level=level, n=len(models.values)),
        predictions=tuple(
            FamilyPrediction(family, ratio_estimate(*models.predict(family, alpha), level=level, n=models.size(family)))
            for family in models.families
        ),
        fixed=fixed,
        verdict="undecided",
        verdict_interval=fixed,
        quartiles=ratio_estimate(quartiles[1], quartiles[0], quartiles[2], level=0.5, n=k),
        tau=number(tau),
        i_squared=number(i_squared),
        tally=Tally(**{verdict.replace(" ", "_"): counts_of[verdict] for verdict in VERDICTS}),
    )


def _numbers(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], Floats, Floats, Floats]:
    """The comparisons that have a speedup, and for each its log speedup, deviation and number of trials."""
    compared = [c for c in comparisons if c.speedup.value is not None and c.verdict != "not comparable"]
    deviations = [np.nan if c.judgement.deviation is None else c.judgement.deviation for c in compared]
    logs = np.log(np.array([c.speedup.value for c in compared], dtype=float))
    return compared, logs, np.array(deviations), np.array([c.n_trials for c in compared], dtype=float)


def _judged(
    summaries: Sequence[ArmSummary], members: Sequence[Sequence[Comparison]], rule: Rule, stops: bool
) -> tuple[ArmSummary, ...]:
    """The summaries with verdicts: a single setting's verdict; without speedups, the settings' commonest verdict."""
    several = np.array([len(group) > 1 and one.n_compared > 0 for group, one in zip(members, summaries, strict=True)])
    moments = [_fixed_set(*_numbers(group)[1:]) for group in members]
    mean, error, degrees = np.array(moments, dtype=float).reshape(-1, 3).T
    p = np.where(several, claim_p(mean, error, degrees, rule.margin), np.nan)
    alpha = rule.alpha * (STOPPED_SHARE if stops else 1.0)
    claimed, level = adjust(p, rule.multiplicity) <= alpha, levels(p, alpha, rule.multiplicity)
    inside = claimed & (np.abs(mean) < rule.margin)
    # As in `claims.judge`: where the two one-sided tests decide, their interval is shown.
    low, high = interval(mean, error, degrees, level)
    width = np.where(inside & ~((low > -rule.margin) & (high < rule.margin)), 2 * level, level)
    low, high = interval(mean, error, degrees, width)
    result = []
    for i, (one, group) in enumerate(zip(summaries, members, strict=True)):
        found: Verdict = "undecided"
        shown: Estimate = ratio_estimate(mean[i], low[i], high[i], level=float(1 - width[i]), n=one.n_compared)
        if len(group) == 1:
            found, shown = group[0].verdict, group[0].judgement.interval
        elif not one.n_compared:
            found = max(VERDICTS, key=one.tally.__getitem__)
        elif claimed[i]:
            found = "no effect" if inside[i] else "helps" if mean[i] > 0 else "hurts"
        result.append(replace(one, verdict=found, verdict_interval=shown))
    return tuple(result)


@dataclass(frozen=True)
class Models:
    """Each model's mean log speedup, (m,), and family. Intervals are (low, high) or (value, low, high), else nan."""

    values: Floats
    family: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The models' mean; nan without models."""
        return float(self.values.mean()) if len(self.values) else np.nan

    @property
    def families(self) -> tuple[str, ...]:
        """The families' names, in order."""
        return tuple(sorted(set(self.family)))

    def size(self, family: str) -> int:
        """How many models a family has."""
        return self.family.count(family)

    def interval(self, alpha: float) -> tuple[float, float]:
        """t interval for the mean of models like these."""
        spread = float(self.values.std(ddof=1)) if len(self.values) > 1 else np.nan
        low, high = t_interval(len(self.values), self.mean, spread, alpha)
        return float(low), float(high)

    def _within(self) -> tuple[float, int]:
        """(variance of models around their families' means, its degrees of freedom)."""
        residuals = [self._of(family) - self._of(family).mean() for family in self.families]
        degrees = len(self.values) - len(self.families)
        squares = sum(float(np.sum(r**2)) for r in residuals)
        return (squares / degrees if degrees > 0 else np.nan), degrees

    def _of(self, family: str) -> Floats:
        return np.asarray(self.values[np.array(self.family) == family])

    def predict(self, family: str, alpha: float) -> tuple[float, float, float]:
        """The prediction interval for one more model of a measured family."""
        own, (variance, degrees) = self._of(family), self._within()
        return _around(float(own.mean()), variance * (1 + 1 / len(own)), degrees, alpha)

    def predict_new_family(self, alpha: float) -> tuple[float, float, float]:
        """The prediction interval for a model of a new family; with only one family, for a model of that one."""
        if len(self.families) == 1:
            return self.predict(self.families[0], alpha)
        if not self.families:
            return np.nan, np.nan, np.nan
        means = np.array([self._of(family).mean() for family in self.families])
        within, degrees = self._within()
        # A family's mean scatters by sigma_a^2 + sigma_b^2 / (its models); one model by sigma_a^2 + sigma_b^2.
        share = 1 - float(np.mean([1 / self.size(family) for family in self.families]))
        # Degrees of freedom of the families alone: Satterthwaite's would be too many where these agree by chance.
        variance = float(means.var(ddof=1)) * (1 + 1 / len(means)) + (within * share if degrees > 0 else 0.0)
        return _around(float(means.mean()), variance, len(means) - 1, alpha)


def average_models(logs: Floats, models: Sequence[str], families: Sequence[str]) -> Models:
    """Average each model's settings. A name in two families is two models."""
    keys = list(zip(families, models, strict=True))
    names = {key: number for number, key in enumerate(sorted(set(keys)))}
    owner = np.array([names[key] for key in keys], dtype=np.int64)
    values = np.bincount(owner, logs, minlength=len(names)) / np.bincount(owner, minlength=len(names))
    return Models(values, tuple(family for family, _ in names))


def _around(centre: float, variance: float, degrees: float, alpha: float) -> tuple[float, float, float]:
    if not degrees > 0:
        return centre, np.nan, np.nan
    half = float(special.stdtrit(degrees, 1 - alpha / 2)) * np.sqrt(variance)
    return centre, float(centre - half), float(centre + half)


def fixed_set_interval(logs: Floats, deviations: Floats, counts: Floats, alpha: float) -> tuple[float, float]:
    """Interval of level 1 - alpha for the mean of these settings' true log speedups, arrays of shape (k,).

    Nan where a setting has fewer than 2 trials, because its noise is then unknown.
    """
    low, high = interval(*_fixed_set(logs, deviations, counts), alpha)
    return float(low), float(high)


def _fixed_set(logs: Floats, deviations: Floats, counts: Floats) -> tuple[float, float, float]:
    """(mean, its standard error, Satterthwaite's degrees of freedom); degrees are 0 where the noise is unknown."""
    k = len(logs)
    if k == 0 or not np.all(counts >= 2):
        return (float(logs.mean()) if k else np.nan), np.nan, 0.0
    parts = deviations**2 / counts / k**2
    squares = np.sum(parts**2 / (counts - 1))
    degrees = parts.sum() ** 2 / squares if squares > 0 else float(np.sum(counts - 1))
    return float(logs.mean()), float(np.sqrt(parts.sum())), float(degrees)


def heterogeneity(logs: Floats, deviations: Floats, counts: Floats) -> tuple[float, float]:
    """(tau, I squared) of k settings' log speedups; nan where fewer than 2 have an error of their own.

    Settings with fewer than 2 trials or without spread have no weight.
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
