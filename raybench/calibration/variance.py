"""How much noise an A/A ledger shows, and its components.

In it the baseline runs against itself (`again`). Per setting it gives the standard deviation of a trial's log ratio,
on which every interval and plan rests, with its chi-squared interval; and its sources, as variance components of the
log ratio of a round (two legs, baseline against baseline):

    d[trial, round] = trial's effect + round's effect + the part of the legs' steps

by analysis of variance with trials as groups (Henderson's first method; Searle, Casella and McCulloch 1992, 3.6),
where the steps' share is 2 step^2 / steps. A negative estimate is shown as 0. A drift that alternates with the order of
the legs appears in the rounds' part, although it cancels in the trial's mean. Steps of a leg are assumed independent;
otherwise the remainder appears in the rounds' part.

All deviations are standard deviations of log seconds (0.01 is about 1 %). No ray, torch or mlflow here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from raybench.analysis.pairs import log_speedup, mean_by
from raybench.ledger.quantities import Row
from raybench.statistics.inference import Floats, Integers


@dataclass(frozen=True)
class Spread:
    """A standard deviation with its 95 % interval and its degrees of freedom."""

    deviation: float
    low: float
    high: float
    degrees: int


@dataclass(frozen=True)
class Components:
    """The sources of the scatter; standard deviations on the log scale, None where the data cannot tell."""

    step: float | None  # of a step, within its leg
    round: float | None  # of a round's log ratio within its trial, without the steps' part
    trial: float | None  # of a trial's log ratio, without its rounds' part
    level: float | None  # of a trial's level of log seconds, which pairing removes


@dataclass(frozen=True)
class Isolation:
    """Separate processes for each leg (`fresh`) against legs that share processes."""

    shared_deviation: float
    fresh_deviation: float
    shared_trial_seconds: float
    fresh_trial_seconds: float
    variance_ratio: float  # fresh over shared, at equal machine time: how many times longer `fresh` must measure
    low: float  # 95 %, F distribution
    high: float


def spread(values: Sequence[Floats]) -> Spread | None:
    """The pooled standard deviation of several groups around their own means; None if no group has two values.

    Its interval comes from the chi-squared distribution.
    """
    degrees = sum(len(group) - 1 for group in values if len(group))
    if degrees < 1:
        return None
    squares = sum(float(np.sum((group - group.mean()) ** 2)) for group in values if len(group))
    low, high = (float(np.sqrt(squares / special.chdtri(degrees, tail))) for tail in (0.025, 0.975))
    return Spread(float(np.sqrt(squares / degrees)), low, high, degrees)


def one_way(values: Floats, group: Integers) -> tuple[float | None, float | None]:
    """(variance within groups, variance between them) of (n,) values; groups may be unequal.

    Within: the mean square. Between: (mean square between - within) / n0, not below 0, with
    n0 = (N - sum n_i^2 / N) / (groups - 1). None where the data do not suffice.
    """
    _, owner, sizes = np.unique(group, return_inverse=True, return_counts=True)
    total, groups = len(values), len(sizes)
    means = np.bincount(owner, values) / sizes
    within = float(np.sum((values - means[owner]) ** 2)) / (total - groups) if total > groups else None
    if within is None or groups < 2:
        return within, None
    between = float(np.sum(sizes * (means - values.mean()) ** 2)) / (groups - 1)
    per_group = (total - float(np.sum(sizes**2)) / total) / (groups - 1)
    return within, max(0.0, (between - within) / per_group)


@dataclass(frozen=True)
class Rounds:
    """The paired rounds of one setting's A/A trials; arrays of shape (rounds,)."""

    trial: Integers  # numbered from 0
    difference: Floats  # log seconds of the baseline's mean step - the same of `again`
    level: Floats  # mean of the two logs
    step_variance: Floats  # of log step seconds within the two legs, their mean
    num_steps: Floats  # measured, of a leg

    def of_trials(self, values: Floats) -> Floats:
        """The mean of each trial's rounds, (trials,)."""
        return mean_by(self.trial, values, int(self.trial.max(initial=-1)) + 1)

    def components(self) -> Components:
        """The variance components, see the module's docstring."""
        within, between = one_way(self.difference, self.trial)
        step = float(np.average(self.step_variance, weights=self.num_steps - 1)) if len(self.trial) else None
        levels = self.of_trials(self.level)
        rest = None
        if within is not None:
            rest = max(0.0, within - float(np.mean(2 * self.step_variance / self.num_steps)))
        return Components(
            _root(step), _root(rest), _root(between), float(np.std(levels, ddof=1)) if len(levels) > 1 else None
        )


def _root(variance: float | None) -> float | None:
    return None if variance is None else float(np.sqrt(variance))


def read_rounds(rows: Iterable[Row], baseline: str, again: str) -> Rounds:
    """The rounds in which both arms were measured, from ledger rows of one setting."""
    legs = {
        (row["trial_id"], row["round"], row["arm"]): np.log(row["step_seconds"][row["warmup_steps"] :])
        for row in rows
        if row["status"] == "ok" and row["arm"] in (baseline, again)
    }
    both = [key[:2] for key in legs if key[2] == baseline and (*key[:2], again) in legs]
    numbers = {trial: number for number, trial in enumerate(dict.fromkeys(trial for trial, _ in both))}
    pairs = [(legs[(*key, baseline)], legs[(*key, again)]) for key in both]
    base, arm = np.array([[np.mean(np.exp(logs)) for logs in pair] for pair in pairs]).reshape(-1, 2).T
    return Rounds(
        trial=np.array([numbers[trial] for trial, _ in both], dtype=np.int64),
        difference=log_speedup(base, arm),
        level=np.log(base * arm) / 2,
        step_variance=np.array([np.mean([np.var(logs, ddof=1) for logs in pair]) for pair in pairs]),
        num_steps=np.array([np.mean([len(logs) for logs in pair]) for pair in pairs]),
    )


def compare_isolation(shared: Spread, fresh: Spread, shared_seconds: float, fresh_seconds: float) -> Isolation:
    """Variance of the mean after the same machine time: variance x seconds a trial, `fresh` over `shared`."""
    ratio = (fresh.deviation**2 * fresh_seconds) / (shared.deviation**2 * shared_seconds)
    low, high = (1 / special.fdtri(fresh.degrees, shared.degrees, p) for p in (0.975, 0.025))
    return Isolation(
        shared.deviation, fresh.deviation, shared_seconds, fresh_seconds, ratio, float(ratio * low), float(ratio * high)
    )
