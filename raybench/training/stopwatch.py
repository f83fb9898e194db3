"""Clocks that mark moments inside the timed region and are read after it.

Only a clock's `mark` runs inside the window: a `perf_counter` on a CPU, an event record on an accelerator, whose times
are read after one synchronize.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch


class Clock(Protocol):
    """Marks moments; afterwards `seconds` gives them, counted from the first."""

    def mark(self) -> None: ...

    def seconds(self) -> list[float]: ...


class HostClock:
    """Marks with `time.perf_counter`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._marks: list[float] = []

    def mark(self) -> None:
        self._marks.append(self._clock())

    def seconds(self) -> list[float]:
        first = self._marks[0]
        return [mark - first for mark in self._marks]


class DeviceClock:
    """Marks with CUDA events on the current stream; `capacity` events are created before the window."""

    def __init__(self, capacity: int) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(capacity)]
        self._used = 0

    def mark(self) -> None:
        self._events[self._used].record()
        self._used += 1

    def seconds(self) -> list[float]:
        torch.cuda.synchronize()
        first = self._events[0]
        return [first.elapsed_time(event) / 1e3 for event in self._events[: self._used]]


@dataclass(frozen=True)
class StepTimes:
    """Seconds of each step, arrays of shape (steps,); the phases are None where they were not timed."""

    step: np.ndarray
    data: np.ndarray
    forward: np.ndarray | None = None
    backward: np.ndarray | None = None
    optimizer: np.ndarray | None = None

    def joined(self, other: StepTimes) -> StepTimes:
        """These steps, then the other's."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in StepTimes.__dataclass_fields__)
        return _times(None if a is None else np.concatenate([a, b]) for a, b in pairs)

    def slowest(self, others: list[StepTimes]) -> StepTimes:
        """Each value is the maximum over these times and those of the other ranks."""
        everyone = [self, *others]
        columns = ([getattr(times, name) for times in everyone] for name in StepTimes.__dataclass_fields__)
        return _times(None if any(v is None for v in values) else np.max(values, axis=0) for values in columns)


def _times(columns: Iterable[Any]) -> StepTimes:
    return StepTimes(*columns)


def marks_per_step(accumulation: int, phases: bool) -> int:
    """How many marks `loop.run_steps` makes per step; a window has one more at its end."""
    return accumulation * (4 if phases else 2)


def step_times(marks: list[float], accumulation: int, phases: bool) -> StepTimes:
    """Step times from the marks of a window. `marks`: (steps x marks_per_step + 1,) seconds.

    A step begins with its first mark and ends where the next begins. Each micro-batch marks the start and the end of
    its data wait and, with phases, the ends of forward and backward; the rest of the step is the optimizer's.
    """
    per_step = marks_per_step(accumulation, phases)
    times = np.asarray(marks)
    assert (len(times) - 1) % per_step == 0, (len(times), per_step)
    begins = times[::per_step]
    step = np.diff(begins)
    laps = np.diff(times).reshape(len(step), accumulation, per_step // accumulation)
    data = laps[:, :, 0].sum(axis=1)
    if not phases:
        return StepTimes(step, data)
    forward, backward = laps[:, :, 1].sum(axis=1), laps[:, :, 2].sum(axis=1)
    return StepTimes(step, data, forward, backward, laps[:, -1, 3])
