"""A sweep's progress: legs done and left, time left, speedups so far. Pure: its inputs are events and a clock.

It costs the driver microseconds a leg, because the driver shares the machine with what is timed. So speedups come
from the legs' mean steps as they arrive; the ledger is not read again. A trial counts once all its legs have an
outcome. There is no verdict before the end: stopping when a verdict looks right makes false ones.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from raybench.analysis.pairs import log_speedup
from raybench.declare.plan import Plan, Trial
from raybench.driver.messages import BeginsAnew, LegEvent
from raybench.statistics.inference import t_interval


@dataclass(frozen=True)
class SpeedupSoFar:
    """An arm's speedup in a setting over `n` complete trials; the paired t interval is None for one trial."""

    setting: str
    arm: str
    n: int
    speedup: float
    interval: tuple[float, float] | None


@dataclass
class _Cell:
    """Running statistics of an arm's log ratios in a setting: count, mean, sum of squared deviations (Welford 1962)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        step = value - self.mean
        self.mean += step / self.n
        self.squares += step * (value - self.mean)


@dataclass
class _RunningTrial:
    """A trial whose legs are not all done."""

    events: list[LegEvent] = field(default_factory=list)
    seconds: float = 0.0  # spent on its legs by this command


class Progress:
    """The state of a running sweep as the driver knows it. `add` the ledger's legs first, then new ones."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.num_legs = sum(not leg.profiled for _, leg in plan.legs())  # until the next look, if there is one
        self.until_a_look = False
        self.alpha = plan.question.alpha
        self.num_done = 0  # legs with an outcome
        self.num_failed = 0
        self.num_trials_done = 0
        self._trials: dict[tuple[str, int], Trial] = {(t.setting_id, t.repeat): t for t in plan.trials}
        self._left: dict[tuple[str, str], int] = defaultdict(int)  # (setting, arm) -> legs without an outcome
        self._to_measure: dict[tuple[str, int], int] = defaultdict(int)  # trial -> its legs that count
        for trial, leg in plan.legs():
            self._left[trial.setting_id, leg.arm_name] += not leg.profiled
            self._to_measure[trial.setting_id, trial.repeat] += not leg.profiled
        self._seconds: dict[tuple[str, str], _Cell] = defaultdict(_Cell)
        self._open: dict[tuple[str, int], _RunningTrial] = defaultdict(_RunningTrial)
        self._ratios: dict[tuple[str, str], _Cell] = {}  # (setting's label, arm), most recently changed last
        self._known: dict[str, int] = {}  # legs added, by id -> attempt
        self._attempts: dict[tuple[str, int], int] = {}  # trial that began anew -> the attempt
        self._lost: list[list[LegEvent]] = []  # trials run by this command whose legs all failed
        self._seconds_run = 0.0  # time spent in legs by this command
        self._starts: dict[tuple[str, int], float] = {}  # trial begun by this command -> seconds outside its legs

    def limit(self, due: Mapping[str, int]) -> None:
        """Count only the trials that each setting should have by now (`due`); more may never be needed."""
        trials = [trial for trial in self.plan.trials if trial.repeat < due.get(trial.setting_id, 0)]
        self.until_a_look = len(trials) < len(self.plan.trials)
        self._trials = {(trial.setting_id, trial.repeat): trial for trial in trials}
        legs = [(trial, leg) for trial in trials for leg in trial.legs if not leg.profiled]
        self.num_legs = len(legs)
        self._left.clear()
        for trial, leg in legs:
            self._left[trial.setting_id, leg.arm_name] += leg.leg_id not in self._known

    @property
    def num_trials(self) -> int:
        """How many trials are expected."""
        return len(self._trials)

    def has(self, event: LegEvent) -> bool:
        """Whether this leg's outcome was added already."""
        return event.attempt <= self._known.get(event.leg_id, -1)

    def begin_anew(self, event: LegEvent | BeginsAnew) -> None:
        """Start a trial's next attempt: its earlier legs have to run again."""
        key = (event.setting_id, event.repeat)
        if event.attempt <= self._attempts.get(key, 0):
            return
        self._attempts[key] = event.attempt
        self._starts.pop(key, None)
        for earlier in self._open.pop(key, _RunningTrial()).events:
            self._known.pop(earlier.leg_id, None)
            self.num_done -= 1
            self.num_failed -= bool(earlier.failure)
            self._left[earlier.setting_id, earlier.arm] += 1

    def add(self, event: LegEvent) -> bool:
        """Add a leg's outcome. Returns whether it completes its trial."""
        key = (event.setting_id, event.repeat)
        if key not in self._trials:
            return False  # another command of this sweep asked for more repeats
        if event.leg_id in self._known:  # the recorder died before it told that the trial begins anew
            self.begin_anew(event)
        self._known[event.leg_id] = event.attempt
        if event.profiled:
            return False
        self.num_done += 1
        self.num_failed += bool(event.failure)
        self._left[event.setting_id, event.arm] -= 1
        trial = self._open[key]
        trial.events.append(event)
        if event.seconds is not None:
            self._seconds[event.setting_id, event.arm].add(event.seconds)
            if event.trial_seconds is not None:  # run by this command
                self._seconds_run += event.seconds
                trial.seconds += event.seconds
                self._starts[key] = max(0.0, event.trial_seconds - trial.seconds)
        if len(trial.events) < self._to_measure[key]:
            return False
        self.num_trials_done += 1
        events = self._open.pop(key).events
        self._compare(events)
        if all(e.failure and e.seconds is not None for e in events):
            self._lost.append(events)
        return True

    def one_cause(self) -> str:
        """The one failure of every leg so far, which makes running the rest useless; empty where there is none.

        Requires that no leg was measured, and that this command ran all legs of at least two trials and of one trial in
        every setting. Lack of memory or time does not count: another trial may have more.
        """
        settings = {events[0].setting_id for events in self._lost}
        enough = len(self._lost) > 1 and settings == {key[0] for key in self._trials}
        if self.num_done > self.num_failed or self.num_done == self.num_legs or not enough:
            return ""
        failures = [event.failure for events in self._lost for event in events]
        alike = {re.sub(r"0x[0-9a-f]+|\d+", "0", failure) for failure in failures}
        by_size = failures[0].startswith(("out_of_memory", "timeout"))
        return failures[0] if len(alike) == 1 and not by_size else ""

    def _compare(self, events: list[LegEvent]) -> None:
        """Add a complete trial's log ratios, each a mean over its rounds."""
        cost = {(e.arm, e.round): (e.mean_step_seconds, e.samples_per_step) for e in events if not e.failure}
        baseline = next(e.arm for e in events if e.is_baseline)
        for arm in sorted({e.arm for e in events} - {baseline}):
            rounds = [r for name, r in cost if name == arm and (baseline, r) in cost]
            if rounds:
                base, own = (np.array([cost[name, r] for r in rounds]).T for name in (baseline, arm))
                cell = self._ratios.pop((events[0].setting, arm), _Cell())
                cell.add(float(log_speedup(base[0], own[0], base[1], own[1]).mean()))
                self._ratios[events[0].setting, arm] = cell

    @property
    def num_speedups(self) -> int:
        """How many arms in settings have a complete trial."""
        return len(self._ratios)

    def speedups(self, most: int | None = None) -> list[SpeedupSoFar]:
        """Every arm in every setting that has a complete trial, or the `most` that changed last; these come last."""
        cells = list(self._ratios.items())
        chosen = cells if most is None else cells[max(0, len(cells) - most) :]
        return [self._speedup(setting, arm, cell) for (setting, arm), cell in chosen]

    def _speedup(self, setting: str, arm: str, cell: _Cell) -> SpeedupSoFar:
        interval = None
        if cell.n > 1:
            low, high = t_interval(cell.n, cell.mean, math.sqrt(cell.squares / (cell.n - 1)), self.alpha)
            interval = (_exp(float(low)), _exp(float(high)))
        return SpeedupSoFar(setting, arm, cell.n, math.exp(cell.mean), interval)

    def seconds_left(self, elapsed: float) -> float | None:
        """Estimated seconds left after `elapsed` seconds of this command; None before its first leg.

        Work is the expected seconds of legs, by arm and setting, plus the starts of trial processes. The rest is
        assumed to go at the pace of the work done so far.
        """
        if not self._seconds_run or not self._seconds:
            return None
        start = sum(self._starts.values()) / len(self._starts)
        done = self._seconds_run + start * len(self._starts)
        to_start = len(self._trials) - self.num_trials_done - sum(key in self._starts for key in self._open)
        legs = sum(count * self._expected(*key) for key, count in self._left.items() if count > 0)
        return elapsed * (legs + start * max(0, to_start)) / done

    def _expected(self, setting_id: str, arm: str) -> float:
        """Expected seconds of a leg: the mean of its arm in its setting, else of its setting, else of all legs."""
        known = self._seconds
        if (setting_id, arm) in known:
            return known[setting_id, arm].mean
        return _mean(cell for (other, _), cell in known.items() if other == setting_id) or _mean(known.values())


def _mean(cells: Iterable[_Cell]) -> float:
    means = [cell.mean for cell in cells]
    return sum(means) / len(means) if means else 0.0


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
