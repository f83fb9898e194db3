"""The batch at which an arm's fixed cost per step falls below the margin.

Over batches of one setting, the time that an arm adds to the baseline's step is modelled as a fixed cost plus a part
proportional to that step, and the step as linear in the batch. An arm's distance to the margin, its seconds minus
(1 + margin) times the baseline's, is then linear too: `over - gain x batch`, and the wanted batch is over / gain. Each
repeat that holds all the batches gives one such line. The interval is Fieller's (1954) for the ratio of their means. It
assumes that repeats are independent and their lines normal; trials of different batches may scatter differently and
be correlated.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raybench.analysis.pairs import Pairs
from raybench.analysis.results import Comparison
from raybench.analysis.tradeoffs import repayment_interval
from raybench.statistics.estimate import Estimate, estimates
from raybench.statistics.inference import Floats, p_against, t_interval, t_quantile

_BATCH = re.compile(r" b\d+(?= )")  # in a setting's name


@dataclass(frozen=True)
class EnoughBatch:
    """One arm over batches of a setting, where its verdict is `hurts` or `undecided` at one of them."""

    hardware: str
    setting: str  # its name, without the batch
    arm: str
    batches: tuple[int, ...]  # measured, global
    fixed: Estimate  # seconds that the arm adds to a step of any batch
    batch: Estimate  # smallest batch within the margin; no value where no batch is enough

    COLUMNS: ClassVar[Mapping[str, str]] = {
        "hardware": "hardware",
        "setting": "setting",
        "arm": "arm",
        "batches": "batches",
        "n_trials": "batch.n",
        "fixed_seconds": "fixed.value",
        "fixed_low": "fixed.low",
        "fixed_high": "fixed.high",
        "batch": "batch.value",
        "batch_low": "batch.low",
        "batch_high": "batch.high",
    }


def enough_batches(
    pairs: Pairs, comparisons: tuple[Comparison, ...], margin: float, alpha: float
) -> tuple[EnoughBatch, ...]:
    """One for each arm and setting with several batches and a positive fixed cost."""
    places = _places(pairs)
    groups: dict[tuple[object, ...], list[Comparison]] = defaultdict(list)
    for one in comparisons:
        k = places[one.where.setting_id, one.arm, one.where.hardware]
        if one.verdict not in ("not comparable", "failed") and one.n_trials > 1 and not pairs.per_sample[k]:
            name, legs, leg = _BATCH.sub("", one.where.setting, count=1), pairs.legs, pairs.example[k]
            same = one.where.hardware, legs.text["space"][leg], float(legs.number["accumulation"][leg])
            groups[*same, name, one.arm].append(one)
    found = []
    for (*_, setting, arm), members in groups.items():
        members.sort(key=lambda one: one.where.global_batch or 0)
        batches = tuple(one.where.global_batch or 0 for one in members)
        unsettled = any(one.verdict in ("hurts", "undecided") for one in members)
        if not unsettled or len(set(batches)) < max(2, len(batches)):
            continue
        of_each = [places[one.where.setting_id, one.arm, one.where.hardware] for one in members]
        if lines := enough(np.array(batches), *_seconds(pairs, of_each), margin, alpha):
            found.append(EnoughBatch(members[0].where.hardware, str(setting), str(arm), batches, *lines))
    return tuple(found)


def _places(pairs: Pairs) -> dict[tuple[str, str, str], int]:
    """Each comparison's number in `pairs`, by setting_id, arm and hardware (empty for pooled hardware)."""
    legs, places = pairs.legs, {}
    for k, leg in enumerate(pairs.example.tolist()):
        names = legs.text["setting_id"][leg], legs.text["arm"][leg]
        places[*names, ""] = places[*names, legs.hardware[leg]] = k
    return places


def _seconds(pairs: Pairs, members: list[int]) -> tuple[Floats, Floats]:
    """Seconds a step of baseline and arm, (repeats, batches), for repeats that every comparison has."""
    rows = [np.flatnonzero(pairs.comparison == k) for k in members]
    repeats = [pairs.repeat[trials] for trials in rows]
    shared = [repeat for repeat in np.unique(repeats[0]) if all((own == repeat).sum() == 1 for own in repeats)]
    chosen = [trials[np.isin(own, shared)] for trials, own in zip(rows, repeats, strict=True)]
    chosen = [trials[np.argsort(pairs.repeat[trials])] for trials in chosen]
    table = np.array(chosen, dtype=int).reshape(len(members), -1).T
    return np.exp(pairs.log_base[table]), np.exp(pairs.log_arm[table])


def enough(batches: Floats, base: Floats, arm: Floats, margin: float, alpha: float) -> tuple[Estimate, Estimate] | None:
    """The fixed cost in seconds, and the batch at which the arm is within the margin, each at level 1 - alpha.

    `batches` has shape (batches,), seconds a step shape (repeats, batches). None with fewer than two repeats or
    batches, where the fixed cost is not above 0, where every batch is within the margin, where a repeat's
    baseline takes no longer for a larger batch, and where three or more batches do not lie on a line: a t test of the
    quadratic coefficient over repeats rejects it at alpha.
    """
    count = len(base)
    if count < 2 or len(batches) < 2:
        return None
    scatter = np.exp(np.log(base).mean(axis=0))  # noise is proportional to the step
    distance = arm - (1 + margin) * base
    if len(batches) > 2:
        bend = _polynomials(batches, distance, scatter, 2)[:, 2]
        unit = bend.std(ddof=1)  # such coefficients are small enough to count as none
        if unit > 0 and p_against(count, bend.mean() / unit, 1.0) < alpha:
            return None
    over, slope = _polynomials(batches, distance, scatter, 1).T
    added, line = (_polynomials(batches, values, scatter, 1) for values in (arm - base, base))
    if (line[:, 1] <= 0).any():
        return None
    gain, fixed = -slope, added[:, 0] - added[:, 1] * line[:, 0] / line[:, 1]  # what is not proportional to the step
    x, y = over.mean(), gain.mean()
    if x <= 0 or fixed.mean() <= 0:
        return None
    ends = t_interval(count, fixed.mean(), fixed.std(ddof=1), alpha)
    spread = np.cov(over, gain) * t_quantile(count, alpha / 2) ** 2 / count
    low, high = repayment_interval(*map(np.array, (x, y, spread[0, 0], spread[1, 1], spread[0, 1])))
    value = x / y if y > 0 else np.inf

    def estimate(value: float, low: Floats, high: Floats, unit: str) -> Estimate:
        return estimates(np.array([value]), low, high, unit=unit, level=1 - alpha, n=count)[0]

    return estimate(float(fixed.mean()), *ends, "s"), estimate(value, low, high, "samples")


def _polynomials(batches: Floats, seconds: Floats, scatter: Floats, degree: int) -> Floats:
    """Coefficients of a weighted least-squares polynomial in the batch, one per repeat, (repeats, 1 + degree)."""
    powers = np.vander(batches, degree + 1, increasing=True).astype(float)
    return np.asarray(np.linalg.lstsq(powers / scatter[:, None], (seconds / scatter).T, rcond=None)[0].T)
