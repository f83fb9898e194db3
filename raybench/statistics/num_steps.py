"""How many steps a leg measures with `protocol.steps: auto`: the steps' own scatter compared with that of whole legs.

A leg's mean step scatters for two reasons: its steps scatter, which more steps reduce, and legs of one arm differ from
round to round and from trial to trial, which they do not. With s the relative standard deviation of a step, tau the
autocorrelation time of the steps, L the standard deviation of a leg's log mean step without the steps' part, and C the
seconds of a leg beside its n measured steps of t seconds, the variance reached in a given time is smallest where (C + n
t) (L^2 + tau s^2 / n) is smallest:

    n = sqrt(C / t) sqrt(tau) s / L

(the number of repetitions at a level of an experiment: Kalibera and Jones 2013). The minimum is flat: with twice or
half of n, at most an eighth more time gives the same interval where steps and legs contribute equally. The number is
chosen from step times of the baseline alone, before any leg of the setting is measured, so that no ratio can affect it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter

from raybench.declare.protocol import StepChoice
from raybench.statistics.multiplicity import Floats

_CHOICE: Final = TypeAdapter(StepChoice)

LEAST: Final = 10  # steps; fewer show too little of a leg's own scatter, on which its median and its caveats rest
MOST: Final = 200  # steps; at this number the steps' share is always small, and every step is stored
LEAST_SECONDS: Final = 0.2  # of a window: processor time is counted in 10 ms, so foreign work shows from 5 % of a core
MOST_SECONDS: Final = 20.0  # of a window; a machine drifts during a longer one, and other arms' steps may take longer
PILOT_SECONDS: Final = 1.0  # of measured steps of the pilot, from LEAST to PILOT_MOST of them
PILOT_MOST: Final = 100
WITHOUT_PILOT: Final = 30  # steps where the baseline cannot run, and so the setting will have no ratio
# Seconds of a leg beside set-up, warm-up and measured steps: facts, hashes, tear-down, its row.
_BESIDE_SECONDS: Final = 0.1
# L before the sweep has shown any: that of legs of one process on an idle machine (docs/method.md), with its weight.
_USUAL_SCATTER: Final = 0.018
_USUAL_DEGREES: Final = 4
_LEAST_SCATTER: Final = 0.005  # no machine has shown less


@dataclass(frozen=True)
class Pilot:
    """A leg of the baseline used for nothing else: seconds of its measured steps, on the slowest rank, and its other
    time (set-up and warm-up, at the pace of the measured steps). Without steps: why it has none."""

    step_seconds: tuple[float, ...]
    beside_seconds: float = 0.0
    problem: str = ""


def autocorrelation_time(values: Sequence[float] | Floats) -> float:
    """How many correlated values make a mean as exact as one independent value, 1 or more.

    1 + 2 sum of the autocorrelations, up to the first pair of neighbouring lags whose sum is not positive (Geyer 1992).
    """
    centred = np.asarray(values, dtype=float) - np.mean(values)
    total = float(centred @ centred)
    if total <= 0:
        return 1.0
    size = len(centred)
    lags = [float(centred[: size - lag] @ centred[lag:]) / total for lag in range(size)]
    time = -1.0
    for first in range(0, size - 1, 2):
        pair = lags[first] + lags[first + 1]
        if pair <= 0:
            break
        time += 2 * pair
    return max(time, 1.0)


def mean_variance(step_seconds: Sequence[float] | Floats) -> float:
    """The variance that a leg's steps leave in the log of their mean: tau s^2 / n."""
    steps = np.asarray(step_seconds, dtype=float)
    relative = float(np.var(steps, ddof=1)) / float(steps.mean()) ** 2
    return autocorrelation_time(steps) * relative / len(steps)


def pilot_steps(step_seconds: float) -> int:
    """How many steps a pilot measures when the last steps of its warm-up took `step_seconds`."""
    return int(np.clip(PILOT_SECONDS / max(step_seconds, 1e-9), LEAST, PILOT_MOST))


def choose(pilot: Pilot, leg_scatter: float, degrees: int = 0) -> StepChoice:
    """The number of steps of a setting's legs, by the module's formula within its limits."""
    if not pilot.step_seconds:
        return StepChoice(WITHOUT_PILOT, problem=pilot.problem)
    steps = np.asarray(pilot.step_seconds, dtype=float)
    seconds, tau = float(steps.mean()), autocorrelation_time(steps)
    scatter = float(np.std(steps, ddof=1)) / seconds
    beside = pilot.beside_seconds + _BESIDE_SECONDS
    optimum = math.sqrt(beside / seconds * tau) * scatter / leg_scatter
    wanted = min(max(optimum, LEAST, LEAST_SECONDS / seconds), MOST, max(MOST_SECONDS / seconds, LEAST))
    return StepChoice(round(wanted), len(steps), seconds, scatter, tau, leg_scatter, degrees, beside, optimum)


class StepChoices:
    """The number of steps of each setting and the scatter of legs so far, from the rows of a sweep."""

    COLUMNS: Final = [  # read from a row
        "setting_id", "trial_id", "protocol", "profiled", "steps_choice", "is_baseline", "status", "failure_message",
        "step_seconds", "warmup_steps",
    ]  # fmt: skip

    def __init__(self, chosen: Mapping[str, StepChoice] | None = None) -> None:
        """`chosen`: by setting, choices that no row has yet."""
        self.chosen = dict(chosen or {})
        self._rounds: dict[str, list[tuple[float, float]]] = defaultdict(list)  # a trial's baseline: log mean, noise

    def note(self, row: Mapping[str, Any]) -> None:
        """Add a row of the ledger; rows of another protocol are skipped.

        If the baseline ended its processes before a number was chosen, it is not tried again for this purpose.
        """
        if json.loads(row.get("protocol") or "{}").get("steps") != "auto" or row.get("profiled"):
            return
        if row.get("steps_choice"):
            self.chosen[row["setting_id"]] = _CHOICE.validate_json(row["steps_choice"])
        elif row["is_baseline"] and row["status"] == "failed":
            died = choose(Pilot((), problem=str(row["failure_message"])), _USUAL_SCATTER)
            self.chosen.setdefault(row["setting_id"], died)
        if row["is_baseline"] and row["status"] == "ok":
            steps = row["step_seconds"][row["warmup_steps"] :]
            self._rounds[row["trial_id"]].append((math.log(np.mean(steps)), mean_variance(steps)))

    def of(self, setting_id: str, pilot: Pilot | None = None) -> StepChoice | None:
        """The choice for a setting: the first one made. None without one and without a pilot."""
        if setting_id not in self.chosen and pilot is not None:
            self.chosen[setting_id] = choose(pilot, *self.leg_scatter())
        return self.chosen.get(setting_id)

    def leg_scatter(self) -> tuple[float, int]:
        """(L, the degrees of freedom that the sweep has shown for it): the pooled variance of the baseline's rounds
        within their trials minus the steps' part, shrunk towards the usual one, which has a weight of 4 degrees."""
        degrees, squares = 0, 0.0
        for rounds in self._rounds.values():
            logs, noise = np.array(rounds).T
            degrees += len(logs) - 1
            squares += float(np.sum((logs - logs.mean()) ** 2)) - (len(logs) - 1) * float(noise.mean())
        variance = (_USUAL_DEGREES * _USUAL_SCATTER**2 + max(squares, 0.0)) / (_USUAL_DEGREES + degrees)
        return max(math.sqrt(variance), _LEAST_SCATTER), degrees
