"""Which trials share a set of processes: blocks, from the durations of a start and of a trial. Pure.

Starting processes costs 10 to 25 s, a leg's own build well under one. So a block has enough trials to keep its start
below a tenth of its time, but no more than keep every slot busy to the end. A block's trials belong to one repeat and
to different settings, so that each trial of a setting is a fresh sample; and they need the same machines.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from statistics import fmean, median
from typing import Self

from raybench.declare.plan import Trial

START_SHARE = 0.1  # of a block's time, at most, if there are enough trials
_USUAL_START_SECONDS = 15.0
_USUAL_SIZE = 8  # trials, while durations are unknown


class Pace:
    """How long a start of processes and a trial of each setting take: given first, then learned from each leg."""

    def __init__(
        self, leg_seconds: Mapping[tuple[str, str], float] | None = None, start_seconds: float | None = None
    ) -> None:
        """`leg_seconds`: by setting_id and arm."""
        self._legs: dict[tuple[str, str], list[float]] = defaultdict(list)
        for key, seconds in (leg_seconds or {}).items():
            self._legs[key].append(seconds)
        self._starts = [] if start_seconds is None else [start_seconds]

    def to_json(self) -> str:
        """Everything known, for `from_json` in another process."""
        return json.dumps({"legs": [[*key, *seconds] for key, seconds in self._legs.items()], "starts": self._starts})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """What `to_json` wrote."""
        written, pace = json.loads(text), cls()
        pace._legs.update({(setting_id, arm): seconds for setting_id, arm, *seconds in written["legs"]})
        pace._starts = written["starts"]
        return pace

    def add_leg(self, setting_id: str, arm: str, seconds: float) -> None:
        """Record a leg's duration, from its beginning to its row."""
        self._legs[setting_id, arm].append(seconds)

    def add_start(self, seconds: float) -> None:
        """Record the time from asking for processes to the beginning of their first leg."""
        self._starts.append(seconds)

    @property
    def start_seconds(self) -> float:
        """Seconds of a start: the median of the latest."""
        return median(self._starts[-9:]) if self._starts else _USUAL_START_SECONDS

    def trial_seconds(self, trial: Trial) -> float | None:
        """Seconds of a trial's legs; an arm that did not run counts as the others' mean; None where none ran."""
        known = {
            leg.arm_name: fmean(self._legs[trial.setting_id, leg.arm_name])
            for leg in trial.legs
            if (trial.setting_id, leg.arm_name) in self._legs
        }
        if not known:
            return None
        return sum(known.get(leg.arm_name, fmean(known.values())) for leg in trial.legs)


class Blocks:
    """A plan's trials that are not yet handed out; gives them out in blocks, in the plan's order."""

    def __init__(self, trials: Iterable[Trial], slots: int, pace: Pace) -> None:
        """`slots`: how many blocks may run at a time."""
        self._pending = {trial.trial_id: trial for trial in trials}
        self._slots, self._pace = max(1, slots), pace
        self._likeness = {trial_id: _likeness(trial) for trial_id, trial in self._pending.items()}
        self._num_alike = Counter(self._likeness.values())
        self._wanted: Mapping[str, int] | None = None

    def want(self, trials: Mapping[str, int] | None) -> None:
        """Limit each setting, by setting_id, to this many trials from now on; None: no limit."""
        self._wanted = trials
        wanted = (trial_id for trial_id, trial in self._pending.items() if self._is_wanted(trial))
        self._num_alike = Counter(self._likeness[trial_id] for trial_id in wanted)

    def _is_wanted(self, trial: Trial) -> bool:
        return self._wanted is None or trial.repeat < self._wanted.get(trial.setting_id, 0)

    def remove(self, trial_ids: Collection[str]) -> None:
        """Do not hand these out (again)."""
        for trial_id in trial_ids:
            trial = self._pending.pop(trial_id, None)
            if trial is not None and self._is_wanted(trial):
                self._num_alike[self._likeness[trial_id]] -= 1

    def next_block(self, place: Callable[[Trial], Hashable] = lambda _: None) -> list[Trial]:
        """The next block; empty once all wanted trials were handed out.

        `place` names the machines that a trial is bound to, None where it is free; a block is bound like its first
        trial.
        """
        first = next(filter(self._is_wanted, self._pending.values()), None)
        if first is None:
            return []
        alike = self._alike(first, place)
        block = alike[: self._size(first, alike)]
        self.remove([trial.trial_id for trial in block])
        return block

    def _alike(self, first: Trial, place: Callable[[Trial], Hashable]) -> list[Trial]:
        """The trials that may share a block with the first, including it."""
        alike, there = [first], place(first)
        if first.isolation != "shared":
            return alike
        for trial in self._pending.values():
            if trial.repeat != first.repeat:
                if trial.repeat > first.repeat:
                    break  # plans are ordered by repeat
                continue
            if trial is first or self._likeness[trial.trial_id] != self._likeness[first.trial_id]:
                continue
            if trial.setting_id != first.setting_id and self._is_wanted(trial) and place(trial) in (None, there):
                alike.append(trial)
        return alike

    def _size(self, first: Trial, alike: list[Trial]) -> int:
        known = [seconds for trial in alike if (seconds := self._pace.trial_seconds(trial)) is not None]
        enough = _USUAL_SIZE
        if known and fmean(known) > 0:
            enough = math.ceil(self._pace.start_seconds * (1 - START_SHARE) / START_SHARE / fmean(known))
        num_blocks = max(1, len(alike) // max(1, enough))  # each at least large enough
        busy = math.ceil(self._num_alike[self._likeness[first.trial_id]] / self._slots)
        return min(math.ceil(len(alike) / num_blocks), max(1, busy))


def num_starts(trials: Collection[Trial], slots: int, pace: Pace) -> dict[str, float]:
    """By trial, its share of the starts of processes: a block's trials share one start; each leg of a `fresh` trial has
    its own."""
    blocks, parts = Blocks(trials, slots, pace), {}
    while block := blocks.next_block():
        for trial in block:
            parts[trial.trial_id] = float(len(trial.legs)) if trial.isolation != "shared" else 1 / len(block)
    return parts


def _likeness(trial: Trial) -> str:
    """What trials that share processes must have in common: workers, machines, and how they are run."""
    setting = trial.setting
    # A process decides only once whether cuBLAS is deterministic.
    fields = ("workers", "nodes", "device", "accelerator", "node_labels", "memory_limit", "deterministic")
    packages = [getattr(leg.arm, "packages", None) for leg in trial.legs]
    same = [setting.model_dump(mode="json", include=set(fields)), trial.isolation, trial.slots_per_node]
    return json.dumps([*same, trial.leg_timeout_seconds, sorted(map(repr, packages))], sort_keys=True)
