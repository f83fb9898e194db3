"""What order may have done to a sweep: from leg to leg (carry-over), and from trial to trial (dependence).

Carry-over: an arm may leave something behind for the next leg of its processes (memory, threads, caches, clocks). For
each engine, the legs of other engines that ran right after one of its legs are held against the same arms' other legs:
log step time, less the level of its arm in its setting, that of its trial, a linear trend over the trial, and what
comes of being first. Trials are the clusters of its standard error. Orders in which each arm follows each other
arm equally often (`raybench.declare.plan.leg_order`, after Williams 1949) make this estimable.

Dependence: intervals take the trials of a setting as independent. Where the machine changes slowly, trials that are
neighbours in time are alike: the correlation of neighbouring d, over all settings at once, is held against the same
with each setting's trials in random orders (all its arms together, since they share the baseline).

Sources: E. J. Williams 1949 (designs balanced for residual effects); Liang and Zeger 1986 (clustered standard errors);
A. Wald and J. Wolfowitz 1943 (serial correlation by permutation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from raybench.analysis.columns import dense
from raybench.analysis.legs import Legs
from raybench.analysis.pairs import Pairs, mean_by
from raybench.statistics.estimate import Estimate, ratio_estimate
from raybench.statistics.inference import Floats, Integers, p_against, t_quantile
from raybench.statistics.multiplicity import adjust

POWER: Final = 0.8
_LEAST_TRIALS: Final = 6  # clustered standard errors of fewer are too small
_NUM_ORDERS: Final = 2000  # random orders of trials; fewer where there are very many settings
_MOST_DRAWS: Final = 40_000_000
_NOTHING_LEFT: Final = 1e-9  # of a regressor, when the others are taken out of it: not estimable


@dataclass(frozen=True)
class CarryOver:
    """How legs are changed by running right after a leg of another engine."""

    engine: str  # of the leg before
    hardware: str
    effect: Estimate  # ratio of step times, above 1 slower after it; n is the number of trials
    p_value: float | None
    p_adjusted: float | None  # Holm over the engines
    num_legs: int  # legs of other engines that ran right after one of it
    detectable: float  # ratio of step times that would be seen with a chance of 80 %

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
    """Whether trials that are neighbours in time are alike."""

    correlation: float  # of neighbouring trials' d, beyond what their common mean makes of it
    p_value: float  # one-sided, of as much in random orders
    n_settings: int
    n_trials: int


def preceding_legs(legs: Legs) -> Integers:
    """For each leg the row of the leg that its processes ran right before it, (legs,); -1 where there is none.

    Within a trial the order is that of `position`; from trial to trial of one set of processes, that of `started_at`.
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
    """The effect of each engine on the legs of others that follow its own, by hardware; empty for a single engine."""
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

    None where it cannot be estimated, or from too few trials.
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
    """(legs, columns) less the means of cells and of trials, by turns until both are nothing."""
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
    """The correlation of trials that are neighbours in time, over all settings; None without 3 trials anywhere."""
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
    """For each setting with 3 trials or more, (n, n): the products of its trials' deviations, in the order of time.

    Deviations of each arm's d from its mean, of unit variance, summed over the arms; trials that all arms share.
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
        table = table[np.argsort(first)]  # in the order of time
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
