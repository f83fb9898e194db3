"""Steady state: the step from which on step times keep one level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raybench.statistics.multiplicity import Floats

_MIN_SEGMENT = 5


def steady_from_step(step_seconds: Sequence[float]) -> int | None:
    """The first step of the last segment of log step time, from the best partition under an L2 cost, which is what
    PELT finds (Killick et al. 2012).

    The noise is estimated from first differences by their median absolute deviation. The penalty is 15 times its
    variance times log n, five times Schwarz's criterion for independent noise, because neighbouring steps are not
    independent. Single slow steps are clipped, so that they are no change point. None for fewer than ten steps.
    """
    if len(step_seconds) < 2 * _MIN_SEGMENT:
        return None
    signal = np.log(np.asarray(step_seconds, dtype=float))
    differences = np.diff(signal)
    noise = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2)
    clipped = np.clip(signal, np.median(signal) - 10 * noise - 1e-9, np.median(signal) + 10 * noise + 1e-9)
    return _last_change(clipped, 15 * max(noise, 1e-3) ** 2 * math.log(len(signal)))


def _last_change(signal: Floats, penalty: float) -> int:
    """The start of the last segment of the partition with the lowest cost; each segment costs its squared deviations
    and the penalty. Implemented here, because a library for this costs each worker half a second of imports, and each
    leg of a hundred steps a tenth of a second."""
    centred = signal - signal.mean()
    sums, squares = (np.concatenate([[0.0], np.cumsum(values)]) for values in (centred, centred**2))
    least = np.full(len(signal) + 1, np.inf)  # cost of the best partition up to each position
    least[0] = 0.0
    start = 0
    for end in range(_MIN_SEGMENT, len(signal) + 1):
        starts = np.arange(end - _MIN_SEGMENT + 1)
        deviations = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        costs = least[starts] + np.maximum(deviations, 0.0) + penalty
        start = int(np.argmin(costs))
        least[end] = costs[start]
    return start
