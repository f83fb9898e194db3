"""Effects of order in a sweep: from leg to leg (carry-over), and from trial to trial (dependence).

Carry-over: an arm may leave something behind for the next leg of its processes (memory, threads, caches, clocks). For
each engine, legs of other engines that ran right after it are compared with the same arms' other legs. The quantity is
log step time, minus the level of its arm in its setting, that of its trial, a linear trend over the trial, and the
effect of being first. Standard errors are clustered by trial. The effect can be estimated because the leg orders let
each arm follow each other arm equally often (`raybench.declare.plan.leg_order`, after Williams 1949).

Dependence: intervals assume that the trials of a setting are independent. Where the machine changes slowly, trials
close in time are alike. The correlation of neighbouring trials' d, over all settings at once, is compared with the
same in random orders of each setting's trials (all its arms together, since they share the baseline).

Sources: E. J. Williams 1949 (designs balanced for residual effects); Liang and Zeger 1986 (clustered standard errors);
A. Wald and J. Wolfowitz 1943 (serial correlation by permutation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from raybench.analysis.arrays import dense
from raybench.analysis.legs import Legs
from raybench.analysis.pairs import Pairs, mean_by
from raybench.statistics.estimate import Estimate, ratio_estimate
from raybench.statistics.inference import Floats, Integers, p_against, t_quantile
from raybench.statistics.multiplicity import adjust

POWER: Final = 0.8
_LEAST_TRIALS: Final = 6  # with fewer, clustered standard errors are too small
_NUM_ORDERS: Final = 2000  # random orders of trials; fewer with very many settings
_MOST_DRAWS: Final = 40_000_000
_NOTHING_LEFT: Final = 1e-9  # share of a regressor left after removing the others; below it, not estimable


@dataclass(frozen=True)
class CarryOver:
    """The effect of running right after a leg of another engine."""

    engine: str  # of the preceding leg
    hardware: str
    effect: Estimate  # ratio of step times, above 1 slower after it; n is the number of trials
    p_value: float | None
    p_adjusted: float | None  # Holm over the engines
    num_legs: int  # legs of other engines that ran right after this engine's
    detectable: float  # ratio of step times that would be detected with 80 % power

    COLUMNS: ClassVar[Mapping[str, str]] = {
        "engine": "engine",
        "hardware": "hardware",
        "effect": "effect.value",
        "ci_low": "effect.low",
        "ci_high": "effect.high",
        "p_value": "p_value",
        "p_adjusted": "p_adjusted",
        "n_trials": "effect.n",
        "num_legs": "num_legs",
        "detectable": "detectable",
    }


@dataclass(frozen=True)
class Dependence:
    """Whether trials close in time are alike."""

    correlation: float  # of neighbouring trials' d, minus its expectation under a common mean
    p_value: float  # one-sided, from random orders
    n_settings: int
    n_trials: int


def preceding_legs(legs: Legs) -> Integers:
    """For each leg, the row of the leg that its processes ran right before it, (legs,); -1 where there is none.

    `position` orders the legs of a trial; `started_at` orders the trials of one set of processes.
    """
    text, number = legs.text, legs.number
    trial = dense(legs.hardware.codes, *(text[name].codes for name in ("space", "sweep", "setting_id", "trial_id")))
    group = text["process_group"]
    named = group.codes >= 0
    processes = np.where(named, dense(legs.hardware.codes, group.codes), len(legs) + trial)
    started = np.nan_to_num(number["started_at"], nan=0.0)
    begin = np.full(int(trial.max()) + 1, np.inf)
    np.minimum.at(begin, trial, started)
    order = np.lexsort([number["position"], trial, begin[trial], processes])
    before = np.full(len(legs), -1, dtype=np.int64)
    earlier, later = order[:-1], order[1:]
    same_trial = trial[earlier] == trial[later]
    follows = (processes[earlier] == processes[later]) & (same_trial | (started[earlier] < started[later]))
    before[later[follows]] = earlier[follows]
    return before


def carry_over(legs: Legs, alpha: float) -> tuple[CarryOver, ...]:
    """Each engine's effect on the legs of other engines right after it, by hardware; empty for a single engine."""
    engine, before = legs.text["engine"], preceding_legs(legs)
    log_seconds = np.log(legs.steps.mean_seconds)
    results = []
    for machine in np.unique(legs.hardware.codes):
        rows = np.flatnonzero((legs.hardware.codes == machine) & np.isfinite(log_seconds))
        previous = np.where(before[rows] >= 0, engine.codes[before[rows]], -1)
        found = [
            (code, effect)
            for code in np.unique(engine.codes[rows])
            if (effect := _effect_of(legs, rows, log_seconds[rows], previous, int(code))) is not None
        ]
        p = np.array([p_against(count, mean, error * np.sqrt(count)) for _, (mean, error, count, _) in found])
        for (code, (mean, error, count, num_legs)), p_value, adjusted in zip(found, p, adjust(p), strict=True):
            reach = float(t_quantile(count, alpha / 2)) * error
            detectable = (float(t_quantile(count, alpha / 2)) + float(t_quantile(count, 1 - POWER))) * error
            results.append(
                CarryOver(
                    engine=engine.names[code],
                    hardware=legs.hardware.names[machine],
                    effect=ratio_estimate(mean, mean - reach, mean + reach, level=1 - alpha, n=count),
                    p_value=float(p_value),
                    p_adjusted=float(adjusted),
                    num_legs=num_legs,
                    detectable=float(np.exp(detectable)),
                )
            )
    return tuple(results)


def _effect_of(
    legs: Legs, rows: Integers, log_seconds: Floats, previous: Integers, engine: int
) -> tuple[float, float, int, int] | None:
    """(mean log effect, its standard error, trials, legs after the engine's).

    None where it cannot be estimated or has too few trials.
    """
    text = legs.text
    own = text["engine"].codes[rows]
    trial = dense(*(text[name].codes[rows] for name in ("space", "sweep", "setting_id", "trial_id")))
    cell = dense(text["setting_id"].codes[rows], text["arm"].codes[rows])
    after = (previous == engine) & (own != engine)
    nuisances = (
        (previous == engine) & (own == engine),
        previous < 0,
        legs.number["position"][rows],
    )
    columns = np.stack([np.asarray(column, dtype=float) for column in (log_seconds, after, *nuisances)], axis=1)
    columns = _without_levels(columns, cell, trial)
    size = float(np.square(columns[:, 1]).sum())
    y, z = (_residual(columns[:, i], columns[:, 2:]) for i in (0, 1))
    left = float(np.square(z).sum())
    if not size or left < _NOTHING_LEFT * size:
        return None
    effect = float(z @ y) / left
    scores = np.bincount(trial, z * (y - effect * z))
    concerned = int(np.count_nonzero(np.bincount(trial, z**2) > _NOTHING_LEFT))
    if concerned < _LEAST_TRIALS:
        return None
    error = float(np.sqrt(concerned / (concerned - 1) * np.square(scores).sum())) / left
    return effect, error, concerned, int(after.sum())


def _without_levels(columns: Floats, cell: Integers, trial: Integers) -> Floats:
    """(legs, columns) minus the means of cells and of trials, removed in turn until both are zero."""
    for _ in range(200):
        greatest = 0.0
        for group in (cell, trial):
            means = np.stack([mean_by(group, column, int(group.max()) + 1) for column in columns.T], axis=1)
            columns = columns - means[group]
            greatest = max(greatest, float(np.abs(means).max(initial=0.0)))
        if greatest < 1e-10:
            break
    return columns


def _residual(column: Floats, others: Floats) -> Floats:
    coefficients = np.linalg.lstsq(others, column, rcond=1e-9)[0]
    return np.asarray(column - others @ coefficients)


def dependence(pairs: Pairs) -> Dependence | None:
    """The correlation of trials adjacent in time, over all settings; None where no setting has 3 trials."""
    grams = _similarities(pairs)
    if not grams:
        return None
    random = np.random.default_rng(0)  # the same ledger gives the same digits
    num_orders = int(np.clip(_MOST_DRAWS // sum(len(gram) for gram in grams), 200, _NUM_ORDERS))
    found, num_pairs, drawn = 0.0, 0.0, np.zeros(num_orders)
    for gram in grams:
        n = len(gram)
        orders = np.argsort(random.random((num_orders, n)), axis=1)
        found += float(np.trace(gram, 1))
        drawn += gram[orders[:, :-1], orders[:, 1:]].sum(axis=1)
        num_pairs += float(np.trace(gram)) * (n - 1) / n
    p_value = (1 + int(np.count_nonzero(drawn >= found - 1e-12))) / (1 + num_orders)
    return Dependence(
        correlation=float(np.clip((found - drawn.mean()) / num_pairs, -1.0, 1.0)),
        p_value=p_value,
        n_settings=len(grams),
        n_trials=sum(len(gram) for gram in grams),
    )


def _similarities(pairs: Pairs) -> list[Floats]:
    """For each setting with at least 3 trials, (n, n): products of its trials' deviations, in time order.

    Each arm's d minus its mean, scaled to unit variance, summed over the arms; only trials that all arms share.
    """
    legs, owner = pairs.legs, pairs.comparison
    started, repeat = np.full(len(owner), np.inf), np.full(len(owner), np.inf)
    np.minimum.at(started, pairs.round_trial, np.nan_to_num(legs.number["started_at"][pairs.arm_leg]))
    np.minimum.at(repeat, pairs.round_trial, np.nan_to_num(legs.number["repeat"][pairs.arm_leg]))
    sample = np.zeros(len(owner), dtype=np.int64)
    sample[pairs.round_trial] = pairs.samples.sample[pairs.arm_leg]
    block = pairs.block[owner]
    grams = []
    order = np.lexsort([repeat, started, block])
    for rows in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        arms, arm = np.unique(owner[rows], return_inverse=True)
        trials, first, place = np.unique(sample[rows], return_index=True, return_inverse=True)
        table = np.full((len(trials), len(arms)), np.nan)
        table[place, arm] = pairs.differences[rows]
        table = table[np.argsort(first)]  # in time order
        table = table[np.isfinite(table).all(axis=1)]
        if len(table) < 3:
            continue
        deviations = table - table.mean(axis=0)
        spread = np.sqrt(np.square(deviations).mean(axis=0))
        kept = spread > 1e-13
        if kept.any():
            scaled = deviations[:, kept] / spread[kept]
            grams.append(scaled @ scaled.T)
    return grams
