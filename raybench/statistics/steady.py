"""Steady state: from which step on the step times keep one level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import ruptures

_MIN_SEGMENT = 5
_MOST_PLACES = 200  # for a change point; the search takes time with their square, 12 s for a thousand


def steady_from_step(step_seconds: Sequence[float]) -> int | None:
    """The first step of the last segment of log step time, by PELT with an L2 cost (Killick et al. 2012).

    The noise is taken from first differences by their median absolute deviation. The penalty is 15 times its
    variance times log n, five times what Schwarz's criterion asks for independent noise, because neighbouring
    steps are not independent; single slow steps are clipped, so that they are no change point. In long runs a change
    is looked for at every n // 200th step only. None for fewer than ten steps.
    """
    if len(step_seconds) < 2 * _MIN_SEGMENT:
        return None
    signal = np.log(np.asarray(step_seconds, dtype=float))
    differences = np.diff(signal)
    noise = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2)
    clipped = np.clip(signal, np.median(signal) - 10 * noise - 1e-9, np.median(signal) + 10 * noise + 1e-9)
    penalty = 15 * max(noise, 1e-3) ** 2 * math.log(len(signal))
    jump = max(1, len(signal) // _MOST_PLACES)
    changes = ruptures.Pelt(model="l2", min_size=_MIN_SEGMENT, jump=jump).fit_predict(clipped, pen=penalty)
    return int(changes[-2]) if len(changes) > 1 else 0
