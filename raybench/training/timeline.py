"""A profiler's trace of a few steps as a small table of a step's time by part. Pure: its input is events.

Each moment of a step belongs to one part (`raybench.ledger.parts`), so the parts sum to the step. While the accelerator
computes, the moment belongs to it; otherwise, and always on a CPU, to the host. Among nested ranges the innermost one
with a meaning counts. Events are in the Chrome trace format that torch.profiler exports.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raybench.ledger.parts import (
    BACKWARD,
    COMMUNICATION,
    COPIES,
    DATA,
    ENGINE_STEP,
    FORWARD,
    HOOKS,
    LAUNCHING,
    MATRIX,
    OPERATORS,
    OPTIMIZER,
    OTHER,
    WAITING,
)

Event = Mapping[str, Any]  # of a Chrome trace: ph, cat, name, ts and dur in microseconds, tid

PREFIX: Final = "raybench::"
PHASES: Final = {"data": DATA, "forward": FORWARD, "backward": BACKWARD, "step": ENGINE_STEP}  # in the loop's order
_NODE: Final = "autograd::engine::evaluate_function: "
_ACCUMULATION: Final = "torch::autograd::AccumulateGrad"
_COMMUNICATION: Final = re.compile(
    r"^(c10d::|_c10d_functional::|nccl:|gloo:|mpi:|record_param_comms|ncclDevKernel|ncclKernel)"
)
_MATRIX_OPERATOR: Final = re.compile(r"^aten::(\w*conv\w*|\w*mm|\w*addmm_\w*|bmm|matmul|linear|\w*attention\w*)$")
_MATRIX_KERNEL: Final = re.compile(
    r"gemm|cutlass|cublas|xmma|conv|wgrad|dgrad|flash|fmha|attention|nvjet", re.IGNORECASE
)
_DEVICE: Final = {"kernel", "gpu_memcpy", "gpu_memset"}
_RUNTIME: Final = {"cuda_runtime", "cuda_driver"}
_MOST_AN_EVENT: Final = 20e-6  # seconds; torch.profiler costs about 2 us per event on an idle CPU, 17 at its start
_LASTING: Final = {COMMUNICATION, DATA, OPTIMIZER, ENGINE_STEP, WAITING}  # ranges inside these belong to them
_IDLE: Final = {FORWARD, BACKWARD, HOOKS, ENGINE_STEP, OTHER}  # on the host, during communication: waiting


@dataclass(frozen=True)
class Fold:
    """One rank's trace summed up: means per step."""

    step_seconds: float  # under the profiler
    parts: dict[str, float]  # seconds; they sum to the step
    events: dict[str, float]  # number recorded in each part
    overlapped_seconds: float  # communication during other computation
    host_calls: float  # operators called by the host
    kernels: float | None = None  # run by the accelerator; None without one
    busy_share: float | None = None  # share of the step in which the accelerator was busy
    host: dict[str, float] | None = None  # with an accelerator: the host's own parts, whatever the accelerator did


def fold(events: Iterable[Event], accumulation: int, skip: int = 1) -> Fold:
    """Fold a trace whose steps are marked by ranges (`PREFIX`); a last mark, for data, ends the last step. The first
    `skip` steps are left out.

    Raises ValueError where fewer steps are marked.
    """
    ranges = sorted((e for e in events if e.get("ph") == "X"), key=lambda e: (e["ts"], -e["dur"]))
    marks = [e for e in ranges if e["name"].startswith(PREFIX) and e["cat"] == "user_annotation"]
    *begins, end = [e["ts"] for e in marks if e["name"] == PREFIX + "data"][::accumulation] or [0.0]
    num_steps = len(begins) - skip
    if num_steps < 1:
        raise ValueError(f"the trace holds {len(begins)} steps, and more than {skip} are needed")
    begin = begins[skip]
    device = [e for e in ranges if e["cat"] in _DEVICE]
    host = _HostLanes([e for e in ranges if e["cat"] not in _DEVICE], marks[0]["tid"], on_device=bool(device))
    changes = [*host.changes(), *(change for e in device for change in _on_device(e))]
    totals = _Totals(on_device=bool(device))
    totals.add(changes, begin, end)
    return Fold(
        step_seconds=(end - begin) / 1e6 / num_steps,
        parts=_a_step(totals.parts, num_steps),
        events={part: count / num_steps for part, count in host.counts(begin, end).items()},
        overlapped_seconds=totals.overlapped / 1e6 / num_steps,
        host_calls=sum(e["cat"] == "cpu_op" and begin <= e["ts"] < end for e in ranges) / num_steps,
        kernels=sum(e["cat"] == "kernel" and begin <= e["ts"] < end for e in device) / num_steps if device else None,
        busy_share=totals.busy / (end - begin) if device else None,
        host=_a_step(totals.host, num_steps) if device else None,
    )


def without_overhead(parts: Mapping[str, float], events: Mapping[str, float], seconds: float) -> dict[str, float]:
    """The parts of a step scaled to the `seconds` that it takes without the profiler.

    The profiler's cost is removed from each part by its number of events, not by its length: a sleep is one event, and
    takes the same time with a profiler. Additional time beyond the events' possible cost comes from the machine
    (another program ran) and is removed from all parts in proportion.
    """
    num_events = sum(events.values())
    cost = min(max(0.0, sum(parts.values()) - seconds), _MOST_AN_EVENT * num_events)
    left = {
        part: max(0.0, value - (cost * events.get(part, 0.0) / num_events if num_events else 0.0))
        for part, value in parts.items()
    }
    scale = seconds / (sum(left.values()) or 1.0)
    return {part: value * scale for part, value in left.items()}


def _a_step(microseconds: Mapping[str, float], num_steps: int) -> dict[str, float]:
    return {part: value / 1e6 / num_steps for part, value in microseconds.items() if value > 0}


@dataclass(frozen=True)
class _Change:
    """At `time`, `lane` changes to `part`; for communication and devices, `by` is the change in the number running."""

    time: float
    lane: str  # main, autograd or running
    part: str  # empty: nothing
    by: int = 0


@dataclass(frozen=True)
class _Open:
    """An open range of a thread."""

    end: float
    part: str
    node: str = ""  # the autograd node that it evaluates
    lasting: bool = False


class _HostLanes:
    """The host threads' activity: the loop's own, autograd's, and communicating threads."""

    def __init__(self, ranges: Sequence[Event], main: Any, *, on_device: bool) -> None:
        self._on_device = on_device
        threads: dict[Any, list[Event]] = defaultdict(list)
        for event in ranges:
            threads[event["tid"]].append(event)
        self._main = threads.pop(main)
        self._autograd = [t for t in threads.values() if any(e["name"].startswith(_NODE) for e in t)]
        others = (e for t in threads.values() if t not in self._autograd for e in t)
        self._background = [e for e in others if _COMMUNICATION.match(e["name"])]
        self._recorded: list[tuple[float, str]] = []  # when an event began, and in which part

    def changes(self) -> list[_Change]:
        """All changes, unordered."""
        found = list(self._thread(self._main, "main"))
        for number, thread in enumerate(self._autograd):
            found += self._thread(thread, f"autograd {number}")
        return found + [change for event in self._background for change in _running(event, COMMUNICATION)]

    def counts(self, begin: float, end: float) -> dict[str, int]:
        """Events by part between two moments."""
        counts: dict[str, int] = defaultdict(int)
        for time, part in self._recorded:
            counts[part] += begin <= time < end
        return counts

    def _thread(self, ranges: Sequence[Event], lane: str) -> Iterator[_Change]:
        stack: list[_Open] = []
        for event in ranges:
            while stack and stack[-1].end <= event["ts"]:
                yield _Change(stack.pop().end, lane, stack[-1].part if stack else "")
            end = min(event["ts"] + event["dur"], stack[-1].end) if stack else event["ts"] + event["dur"]
            stack.append(self._opened(event, end, stack[-1] if stack else _Open(end, OTHER)))
            self._recorded.append((event["ts"], stack[-1].part))
            yield _Change(event["ts"], lane, stack[-1].part)
        while stack:
            yield _Change(stack.pop().end, lane, stack[-1].part if stack else "")

    def _opened(self, event: Event, end: float, outer: _Open) -> _Open:
        name, kind = event["name"], event["cat"]
        if name.startswith(PREFIX):
            part = PHASES[name.removeprefix(PREFIX)]
            return _Open(end, part, lasting=part == DATA)
        if _COMMUNICATION.match(name):
            return _Open(end, COMMUNICATION, lasting=True)
        if kind in _RUNTIME and "Synchronize" in name:
            return _Open(end, WAITING, lasting=True)
        if name.startswith("Optimizer.") and outer.part in (ENGINE_STEP, OTHER):
            return _Open(end, OPTIMIZER, lasting=True)
        if outer.lasting or kind != "cpu_op":
            return _Open(end, outer.part, outer.node, outer.lasting)
        if name.startswith(_NODE):
            return _Open(end, HOOKS, node=name.removeprefix(_NODE))
        if outer.part == HOOKS and (name != outer.node or name == _ACCUMULATION):
            return _Open(end, HOOKS, lasting=True)
        if name == outer.node:
            return _Open(end, BACKWARD)
        if outer.part == ENGINE_STEP:
            return _Open(end, ENGINE_STEP)
        if self._on_device:
            return _Open(end, LAUNCHING)
        return _Open(end, MATRIX, lasting=True) if _MATRIX_OPERATOR.match(name) else _Open(end, OPERATORS)


def _running(event: Event, part: str) -> tuple[_Change, _Change]:
    return _Change(event["ts"], "running", part, 1), _Change(event["ts"] + event["dur"], "running", part, -1)


def _on_device(event: Event) -> tuple[_Change, _Change]:
    """The changes made by a kernel or copy on the device."""
    part = OPERATORS
    if event["cat"] != "kernel":
        part = COPIES
    elif _COMMUNICATION.match(event["name"]):
        part = COMMUNICATION
    elif _MATRIX_KERNEL.search(event["name"]):
        part = MATRIX
    return _running(event, part)


class _Totals:
    """Microseconds by part, summed between changes."""

    def __init__(self, *, on_device: bool) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self.host: dict[str, float] = defaultdict(float)
        self.busy = self.overlapped = 0.0
        self._on_device = on_device
        self._lanes: dict[str, str] = {}
        self._running: dict[str, int] = defaultdict(int)

    def add(self, changes: list[_Change], begin: float, end: float) -> None:
        """Sum what lies between two moments."""
        time = begin
        # Of simultaneous changes the ends come first: they precede for each thread, and sorting is stable.
        for change in sorted(changes, key=lambda change: change.time):
            until = min(max(change.time, begin), end)
            if until > time:
                self._moment(until - time)
                time = until
            if change.lane == "running":
                self._running[change.part] += change.by
            else:
                self._lanes[change.lane] = change.part
        if end > time:
            self._moment(end - time)

    def _moment(self, length: float) -> None:
        host = self._of_host()
        self.host[host] += length
        computing = next((part for part in (MATRIX, OPERATORS, COPIES) if self._running[part]), "")
        communicating = self._running[COMMUNICATION] > 0
        if self._on_device:
            self.busy += length if computing or communicating else 0.0
            self.overlapped += length if computing and communicating else 0.0
            self.parts[computing or (COMMUNICATION if communicating else host)] += length
            return
        waits = communicating and host in _IDLE
        self.overlapped += length if communicating and not waits and host != COMMUNICATION else 0.0
        self.parts[COMMUNICATION if waits else host] += length

    def _of_host(self) -> str:
        """The part of the loop's thread; in a backward pass that waits for autograd's thread, that thread's part."""
        main = self._lanes.get("main") or OTHER
        if main in (BACKWARD, OTHER):
            others = (part for lane, part in self._lanes.items() if lane != "main" and part)
            return next(others, main)
        return main
