"""From legs to trials: one difference d of log cost between baseline and arm for each trial.

The trial is the sample. Trials of one setting that ran in one set of processes, or that are copies of each other, are
one sample (`Samples`). Each round of a trial in which both arms were measured gives a difference of logs. d is the
mean over those rounds of `log(baseline) - log(arm)`, so exp(mean d) is the speedup (above 1 the arm is faster). A
comparison is one arm in one setting on one hardware; its trials are a contiguous part of the flat array
`Pairs.differences`. Nothing here loops over legs, trials or comparisons.

The cost is by default the mean measured step in seconds. Where the arms of a trial take different numbers of samples
a step, the cost is divided by them: seconds a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raybench.analysis.arrays import code_of, dense
from raybench.analysis.legs import Legs
from raybench.statistics.inference import Floats, Integers

Mask = np.ndarray


@dataclass(frozen=True)
class Samples:
    """The sample that each leg belongs to, and why trials were merged; arrays of shape (legs,)."""

    sample: Integers
    shared_processes: Mask  # its trial shared a set of processes with another trial of the setting
    copied: Mask  # its trial has a leg with exactly the step times of a leg of another trial


@dataclass(frozen=True)
class SideCounts:
    """Counts for one side of each comparison; arrays of shape (k,)."""

    trials: Integers  # trials with a leg of this side, measured or not
    ok: Integers  # legs measured
    failed: Integers  # legs that failed
    lonely: Integers  # rounds measured on this side only


@dataclass(frozen=True)
class Pairs:
    """k comparisons with t paired trials made of c paired rounds; legs are named by their row in `legs`.

    Trials that were merged into one sample (`Samples`) count as one trial.
    """

    legs: Legs
    baseline: str
    # One entry a comparison, (k,)
    example: Integers  # a leg of its arm
    starts: Integers  # where its trials begin in `differences`
    counts: Integers  # number of paired trials
    arm: SideCounts
    base: SideCounts
    per_sample: Mask  # whether the cost is per sample, because batches differ
    # One entry a paired trial, (t,)
    differences: Floats  # d
    comparison: Integers
    log_arm: Floats  # log cost, mean over the paired rounds
    log_base: Floats
    # One entry a paired round, (c,)
    arm_leg: Integers
    base_leg: Integers
    round_trial: Integers  # index into the trials
    # One entry a leg, (legs,)
    leg_comparison: Integers  # -1 for the baseline's legs
    leg_block: Integers  # code of setting and hardware, shared by its comparisons and the baseline
    leg_trial: Integers
    samples: Samples
    measured: Mask

    @property
    def block(self) -> Integers:
        """Each comparison's code of setting and hardware, (k,)."""
        return self.leg_block[self.example]

    @property
    def base_example(self) -> Integers:
        """A leg of the baseline for each comparison, (k,); a leg of the arm where none is paired."""
        legs = self.example.copy()
        paired, first = np.unique(self.comparison[self.round_trial], return_index=True)
        legs[paired] = self.base_leg[first]
        return legs

    @property
    def repeat(self) -> Integers:
        """The repeat of each paired trial, from 0, (t,); 0 where the ledger has none."""
        repeats = np.zeros(len(self.differences), dtype=np.int64)
        repeats[self.round_trial] = np.nan_to_num(self.legs.number["repeat"][self.arm_leg]).astype(np.int64)
        return repeats

    def moments(self, values: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and sample standard deviation over each comparison's trials, (k,); nan with too few trials.

        `values` has one entry a trial; by default the differences d.
        """
        return group_moments(self.differences if values is None else values, self.comparison, len(self.counts))

    def round_logs(self, seconds: Floats) -> Floats:
        """log(baseline / arm) of a cost by leg, (legs,), for each paired round, (c,)."""
        samples = self.legs.number["samples_per_step"]
        arm, base = self.arm_leg, self.base_leg
        by_sample = self.per_sample[self.comparison[self.round_trial]]
        return log_speedup(
            seconds[base], seconds[arm], np.where(by_sample, samples[base], 1.0), np.where(by_sample, samples[arm], 1.0)
        )

    def rounds_of(self, arms: Sequence[str]) -> Integers:
        """The legs of the rounds in which all of these arms were measured, (rounds, arms)."""
        place, names = _places(self.legs, self.leg_trial), self.legs.text["arm"]
        table = np.full((int(place.max()) + 1, len(arms)), -1, dtype=np.int64)
        for column, arm in enumerate(arms):
            chosen = np.flatnonzero((names.codes == code_of(names, arm)) & self.measured)
            table[place[chosen], column] = chosen
        return table[(table >= 0).all(axis=1)]

    def by_trial(self, values: Floats) -> Floats:
        """Values by round, (c,), averaged by trial, (t,)."""
        return mean_by(self.round_trial, values, len(self.differences))


def log_speedup(base: ArrayLike, arm: ArrayLike, base_samples: ArrayLike = 1.0, arm_samples: ArrayLike = 1.0) -> Floats:
    """The paired log ratio: log of the baseline's cost over the arm's, above 0 where the arm is faster.

    Costs are positive. Where the two sides take different numbers of samples a step, the cost is per sample.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, samples = np.true_divide(base, arm), np.true_divide(arm_samples, base_samples)
        return np.asarray(np.log(ratio) + np.log(samples))


def pair_trials(
    legs: Legs, cost: Floats, baseline: str, *, of_steps: bool = True, pool_hardware: bool = False
) -> Pairs:
    """Pair every arm with the baseline, round by round; `cost` has shape (legs,), nan where there is none.

    A cost `of_steps` is divided by the samples a step where batches differ. With `pool_hardware`, trials of a setting
    on different machines belong to one comparison.
    """
    text, hardware = legs.text, legs.hardware.codes
    block = dense(text["setting_id"].codes, np.zeros_like(hardware) if pool_hardware else hardware)
    trial = dense(block, hardware, text["space"].codes, text["sweep"].codes, text["trial_id"].codes)
    samples_of = find_samples(legs, block, trial)
    sample = samples_of.sample
    place = _places(legs, trial)
    is_base = text["arm"].codes == code_of(text["arm"], baseline)
    comparison = np.full(len(legs), -1, dtype=np.int64)
    comparison[~is_base] = dense(block[~is_base], text["arm"].codes[~is_base])
    example = np.unique(comparison[~is_base], return_index=True)[1]
    example = np.flatnonzero(~is_base)[example]
    measured = np.isfinite(cost)
    per_sample = _batches_differ(legs, trial, is_base, measured, comparison, len(example)) & of_steps

    arm_leg, base_leg = _shared_rounds(comparison, place, is_base, measured)
    owner = comparison[arm_leg]
    logs = np.log(np.where(measured, cost, 1.0))
    samples = np.where(legs.number["samples_per_step"] > 0, legs.number["samples_per_step"], 1.0)
    by_sample = per_sample[owner]
    # Several legs of one arm in one round are averaged (raybench's own sweeps never write them).
    logs_arm = _cell_mean(dense(comparison, place), logs, measured & ~is_base)[arm_leg]
    logs_base = _cell_mean(place, logs, measured & is_base)[base_leg]
    logs_arm = logs_arm - np.where(by_sample, np.log(samples[arm_leg]), 0.0)
    logs_base = logs_base - np.where(by_sample, np.log(samples[base_leg]), 0.0)

    width = int(sample.max()) + 1
    keys, round_trial = np.unique(owner * width + sample[arm_leg], return_inverse=True)
    counts = np.bincount(keys // width, minlength=len(example))
    paired, base_block = np.bincount(owner, minlength=len(example)), np.where(is_base, block, -1)
    log_arm, log_base = (mean_by(round_trial, values, len(keys)) for values in (logs_arm, logs_base))
    return Pairs(
        legs=legs,
        baseline=baseline,
        example=example,
        starts=np.cumsum(counts) - counts,
        counts=counts,
        arm=_side(comparison, trial, place, measured, len(example), np.arange(len(example)), paired),
        base=_side(base_block, trial, place, measured, int(block.max()) + 1, block[example], paired),
        per_sample=per_sample,
        differences=mean_by(round_trial, logs_base - logs_arm, len(keys)),
        comparison=keys // width,
        log_arm=log_arm,
        log_base=log_base,
        arm_leg=arm_leg,
        base_leg=base_leg,
        round_trial=round_trial,
        leg_comparison=comparison,
        leg_block=block,
        leg_trial=trial,
        samples=samples_of,
        measured=measured,
    )


def _places(legs: Legs, trial: Integers) -> Integers:
    """A code of each leg's trial and round, (legs,)."""
    return dense(trial, np.unique(legs.number["round"], return_inverse=True)[1])


def find_samples(legs: Legs, block: Integers, trial: Integers) -> Samples:
    """Merge dependent trials; `block` is each leg's code of setting and hardware, `trial` its trial, both (legs,)."""
    group = legs.text["process_group"]
    named = (group.codes >= 0) & (group.codes != code_of(group, ""))
    shared = _shared(dense(block, group.codes), trial, named)
    steps = legs.steps
    varied = legs.ok & (steps.p99_seconds > steps.median_seconds)  # a constant was not measured and proves nothing
    numbers = (steps.mean_seconds, steps.median_seconds, steps.p90_seconds, steps.p99_seconds, steps.drift)
    digits = [np.unique(values, return_inverse=True)[1] for values in numbers]
    equal = dense(block, legs.text["arm"].codes, *digits)
    copied = _shared(equal, trial, varied)
    if not (shared.any() or copied.any()):
        return Samples(trial, shared, copied)
    links = [(trial[mask], key[mask] + offset) for mask, key, offset in (
        (shared, dense(block, group.codes), int(trial.max()) + 1),
        (copied, equal, int(trial.max()) + 2 + len(legs)),
    )]  # fmt: skip
    rows, columns = (np.concatenate(ends) for ends in zip(*links, strict=True))
    size = int(max(trial.max(), columns.max())) + 1
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    label = connected_components(graph, directed=False)[1]
    sample = dense(label[trial].astype(np.int64))
    concerned = [np.isin(trial, trial[mask]) for mask in (shared, copied)]
    return Samples(sample, concerned[0], concerned[1])


def _shared(key: Integers, trial: Integers, chosen: Mask) -> Mask:
    """The chosen legs whose key also occurs in another trial, (legs,)."""
    if not chosen.any():
        return chosen
    several = distinct_by(key, trial, chosen, int(key.max()) + 1) > 1
    return np.asarray(chosen & several[key])


def group_moments(values: Floats, group: Integers, size: int) -> tuple[Floats, Floats]:
    """Mean and sample standard deviation of values, (t,), by group, (size,); nan with too few values."""
    count = np.bincount(group, minlength=size)
    mean = mean_by(group, values, size)
    squares = np.bincount(group, (values - mean[group]) ** 2, minlength=size)
    return mean, np.where(count >= 2, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def mean_by(group: Integers, values: Floats, size: int) -> Floats:
    """Mean of values by group, (size,); nan for an empty group."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(group, values, minlength=size) / np.bincount(group, minlength=size))


def _cell_mean(cell: Integers, values: Floats, chosen: Mask) -> Floats:
    """For each leg, the mean over the chosen legs of its cell, (legs,)."""
    return mean_by(cell[chosen], values[chosen], int(cell.max()) + 1)[cell]


def _shared_rounds(comparison: Integers, place: Integers, is_base: Mask, measured: Mask) -> tuple[Integers, Integers]:
    """The rows (arm's leg, baseline's leg) of every round in which both were measured, by comparison and place."""
    partner = np.full(int(place.max()) + 1, -1, dtype=np.int64)
    base_rows = np.flatnonzero(is_base & measured)
    partner[place[base_rows][::-1]] = base_rows[::-1]
    rows = np.flatnonzero(~is_base & measured & (partner[place] >= 0))
    first = np.unique(comparison[rows] * (len(partner) + 1) + place[rows], return_index=True)[1]
    return rows[first], partner[place[rows[first]]]


def _batches_differ(
    legs: Legs, trial: Integers, is_base: Mask, measured: Mask, comparison: Integers, size: int
) -> Mask:
    """Whether an arm's samples a step differ from the baseline's in some trial, (size,)."""
    samples = legs.number["samples_per_step"]
    of_trial = np.full(int(trial.max()) + 1, np.nan)
    base = is_base & measured
    of_trial[trial[base]] = samples[base]
    other = of_trial[trial]
    differ = measured & ~is_base & (samples > 0) & (other > 0) & (samples != other)
    result = np.zeros(size, dtype=bool)
    result[comparison[differ]] = True
    return result


def _side(
    group: Integers, trial: Integers, place: Integers, measured: Mask, size: int, of: Integers, paired: Integers
) -> SideCounts:
    """Counts for one side; `group` is each leg's group (-1: not on this side), `of` each comparison's group, (k,).

    `paired` is each comparison's number of paired rounds, (k,).
    """
    here = group >= 0
    return SideCounts(
        trials=distinct_by(group, trial, here, size)[of],
        ok=np.bincount(group[here & measured], minlength=size)[of],
        failed=np.bincount(group[here & ~measured], minlength=size)[of],
        lonely=distinct_by(group, place, here & measured, size)[of] - paired,
    )


def distinct_by(group: Integers, item: Integers, chosen: Mask, size: int) -> Integers:
    """The number of distinct items among the chosen rows, by group, (size,)."""
    width = int(item.max(initial=0)) + 1
    return np.bincount(np.unique(group[chosen] * width + item[chosen]) // width, minlength=size)
