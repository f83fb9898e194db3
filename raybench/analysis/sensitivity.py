"""The same comparisons judged another way: what the verdict rests on is shown where it would turn.

Legs are doubtful for reasons that were fixed before any ratio was looked at: a window that is not steady, a machine
that was busy with something else, a trial that was cut. The verdict itself is always that of all legs.
"""

from __future__ import annotations

import numpy as np

from raybench.analysis.doubts import contaminated_legs, cut_rounds, suspect_legs
from raybench.analysis.estimate import number
from raybench.analysis.inference import Floats, judge
from raybench.analysis.metrics import Metric
from raybench.analysis.pairs import Mask, Pairs, group_moments, mean_by
from raybench.analysis.results import Sensitivity


def judge_otherwise(pairs: Pairs, metric: Metric, margin: float, alpha: float, same: Mask) -> list[list[Sensitivity]]:
    """The comparisons judged with the median step, and without the rounds that have a leg of a doubtful kind.

    Only where there are such rounds; `margin` is on the log scale, `same` says which comparisons may have a verdict.
    """
    results: list[list[Sensitivity]] = [[] for _ in pairs.counts]
    if metric.name != "step_seconds":
        return results
    owner, steps = pairs.comparison[pairs.round_trial], pairs.legs.steps
    for kind, seconds, left_out in (
        ("median step", steps.median_seconds, np.zeros(len(owner), dtype=bool)),
        ("steady legs only", steps.mean_seconds, _either(pairs, suspect_legs(pairs))),
        ("clean legs only", steps.mean_seconds, _either(pairs, contaminated_legs(pairs))),
        ("uncut rounds only", steps.mean_seconds, cut_rounds(pairs)),
    ):
        keep = ~left_out
        shown = np.bincount(owner[left_out], minlength=len(pairs.counts)) > 0
        if kind == "median step":
            shown = pairs.counts > 0
        if not shown.any():
            continue
        rounds = np.log(seconds[pairs.base_leg] / seconds[pairs.arm_leg])
        rounds = rounds + np.where(pairs.per_sample[owner], _log_samples(pairs), 0.0)
        trials = mean_by(pairs.round_trial[keep], rounds[keep], len(pairs.differences))
        there = np.isfinite(trials)
        counts = np.bincount(pairs.comparison[there], minlength=len(pairs.counts))
        mean, deviation = group_moments(trials[there], pairs.comparison[there], len(counts))
        found = judge(counts, mean, deviation, margin=margin, alpha=alpha, claims=same)
        for k in np.flatnonzero(shown):
            results[k].append(Sensitivity(kind, number(np.exp(mean[k])), str(found.verdict[k])))
    return results


def _log_samples(pairs: Pairs) -> Floats:
    samples = pairs.legs.number["samples_per_step"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(samples[pairs.arm_leg] / samples[pairs.base_leg]))


def _either(pairs: Pairs, legs: Mask) -> Mask:
    """Paired rounds, (c,), in which one of the two legs is among these."""
    return np.asarray(legs[pairs.arm_leg] | legs[pairs.base_leg])
