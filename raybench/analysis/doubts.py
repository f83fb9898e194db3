"""Legs and rounds that are doubtful by a rule: not steady, contaminated, cut. Masks, to count and to leave out."""

from __future__ import annotations

import numpy as np

from raybench.analysis.pairs import Mask, Pairs


def suspect_legs(pairs: Pairs) -> Mask:
    """Legs whose measured window was not steady: the last steady segment begins inside it. Shape (legs,)."""
    return np.asarray(pairs.legs.number["steady_from_step"] > pairs.legs.number["warmup_steps"])


def contaminated_legs(pairs: Pairs) -> Mask:
    """Legs beside which the machine did something else (`raybench.telemetry.contamination`). Shape (legs,).

    A leg without telemetry is not among them: nothing is known of it.
    """
    column = pairs.legs.text["contaminated"]
    given = np.array([bool(name) for name in column.names] + [False])
    return np.asarray(given[column.codes])


def cut_rounds(pairs: Pairs) -> Mask:
    """Paired rounds, (c,), whose two legs ran in different sets of processes: a trial that was cut and resumed.

    Where that is so in every round of a comparison each leg has processes of its own by design (`fresh`).
    """
    group = pairs.legs.text["process_group"].codes
    arm, base = group[pairs.arm_leg], group[pairs.base_leg]
    apart = (arm != base) & (arm >= 0) & (base >= 0)
    owner = pairs.comparison[pairs.round_trial]
    together = np.bincount(owner[~apart], minlength=len(pairs.counts))
    return np.asarray(apart & (together[owner] > 0))
