"""The same comparisons judged in other ways: a verdict that would change is a caveat.

The reasons to doubt a leg were fixed before looking at any ratio: a window that is not steady, a machine busy with
something else, a trial that was cut. The verdict itself always uses all legs.
"""

from __future__ import annotations

import numpy as np

from raybench.analysis.pairs import Mask, Pairs, mean_by
from raybench.analysis.question import Metric
from raybench.analysis.results import Sensitivity
from raybench.statistics.estimate import number
from raybench.statistics.looks import Procedure, Trials


def judge_otherwise(pairs: Pairs, metric: Metric, procedure: Procedure) -> list[list[Sensitivity]]:
    """The comparisons judged with the median step, and without rounds that have a doubtful leg.

    The latter only where there are such rounds.
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
        rounds = pairs.round_logs(seconds)
        trials = mean_by(pairs.round_trial[keep], rounds[keep], len(pairs.differences))
        there = np.isfinite(trials)
        mean = mean_by(pairs.comparison[there], trials[there], len(pairs.counts))
        found = procedure.judge(Trials(trials[there], pairs.comparison[there], pairs.repeat[there]))
        for k in np.flatnonzero(shown):
            results[k].append(Sensitivity(kind, number(np.exp(mean[k])), str(found.verdict[k])))
    return results


def _either(pairs: Pairs, legs: Mask) -> Mask:
    """Paired rounds, (c,), in which at least one of the two legs is in `legs`."""
    return np.asarray(legs[pairs.arm_leg] | legs[pairs.base_leg])


def suspect_legs(pairs: Pairs) -> Mask:
    """Legs whose measured window was not steady: their last steady segment begins inside it. Shape (legs,)."""
    return np.asarray(pairs.legs.number["steady_from_step"] > pairs.legs.number["warmup_steps"])


def contaminated_legs(pairs: Pairs) -> Mask:
    """Legs during which something else kept the machine busy (`raybench.telemetry.contamination`). Shape (legs,).

    Legs without telemetry are left out: nothing is known about them.
    """
    column = pairs.legs.text["contaminated"]
    given = np.array([bool(name) for name in column.names] + [False])
    return np.asarray(given[column.codes])


def cut_rounds(pairs: Pairs) -> Mask:
    """Paired rounds, (c,), whose two legs ran in different sets of processes, because the trial was cut and resumed.

    If that holds for every round of a comparison, its legs have separate processes by design (`fresh`).
    """
    group = pairs.legs.text["process_group"].codes
    arm, base = group[pairs.arm_leg], group[pairs.base_leg]
    apart = (arm != base) & (arm >= 0) & (base >= 0)
    owner = pairs.comparison[pairs.round_trial]
    together = np.bincount(owner[~apart], minlength=len(pairs.counts))
    return np.asarray(apart & (together[owner] > 0))
