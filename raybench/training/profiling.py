"""Runs a few steps of a leg's own loop under torch.profiler, sums up where their time goes, and keeps the trace.

A profiler that cannot start, fails or writes too much costs the explanation and never the leg: the profile's `missing`
names what it lacks. Steps that fail under it fail the leg, which counts in no comparison.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from torch.profiler import ProfilerActivity, profile, record_function

from raybench.ledger.parts import PARTS
from raybench.machine.links import Links
from raybench.training.engines import Engine
from raybench.training.failures import describe, print_traceback
from raybench.training.loop import LossOf, run_steps
from raybench.training.node.link_rates import measured_links
from raybench.training.ranks import Ranks
from raybench.training.tasks.trees import Tree
from raybench.training.timeline import PHASES, PREFIX, Fold, fold, without_overhead

Window = contextlib.AbstractContextManager[None]
STEPS: Final = 10
_SKIPPED: Final = 1  # the first step includes the profiler's start
MOST_TRACE_BYTES: Final = 16 * 2**20  # compressed; a larger one is not kept
_MOST_RAW_BYTES: Final = 2**29  # a larger one is not read


class RangeClock:
    """A clock for the loop whose marks begin and end the profiler's ranges: data, forward, backward, step."""

    def __init__(self) -> None:
        self._marks = 0
        self._range: Any = None

    def mark(self) -> None:
        self.close()
        self._range = record_function(PREFIX + list(PHASES)[self._marks % len(PHASES)])
        self._range.__enter__()
        self._marks += 1

    def close(self) -> None:
        """End the open range."""
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def seconds(self) -> list[float]:
        raise NotImplementedError("the trace holds the times")


class ProfiledSteps:
    """The result of a rank's profiler: a fold, or why there is none; on rank 0 also the trace."""

    def __init__(self) -> None:
        self.fold: Fold | None = None
        self.missing: list[str] = []
        self.trace: str = ""  # gzip, base64
        self.links: Links | None = None

    @contextlib.contextmanager
    def _attempt(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a profiler may raise anything: lose the explanation, not the leg
            print_traceback()
            self.missing.append(f"{what}: {describe(error)}")

    def run(
        self, step: Callable[[RangeClock], None], ranks: Ranks, accumulation: int, window: Callable[[], Window]
    ) -> None:
        """Run `step`, which runs the loop with the clock it is given, under a profiler; every rank calls it.

        `window` is the telemetry's: the machine is watched meanwhile.
        """
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (ranks.device.type == "cuda")
        profiler: Any = None
        with self._attempt("the profiler did not start"):
            profiler = profile(activities=activities)
            profiler.__enter__()
        clock = RangeClock()
        try:
            with window():
                step(clock)
                ranks.settle()
        finally:
            clock.close()
            if profiler is not None and not self.missing:
                with self._attempt("the profiler did not end"):
                    profiler.__exit__(None, None, None)
        if not self.missing:
            with self._attempt("the trace could not be read"):
                self._read(profiler, accumulation, ranks)

    def _read(self, profiler: Any, accumulation: int, ranks: Ranks) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            if (size := path.stat().st_size) > _MOST_RAW_BYTES:
                self.missing.append(f"the trace of {STEPS} steps takes {size / 2**20:,.0f} MiB: too much to be read")
                return
            raw = path.read_bytes()
        self.fold = fold(json.loads(raw)["traceEvents"], accumulation, _SKIPPED)
        if ranks.device.type == "cuda" and self.fold.kernels is None:
            self.missing.append("the profiler saw no kernel (it lacks CUPTI, or the right to use it): the host alone")
        if ranks.rank == 0:
            packed = gzip.compress(raw, mtime=0)
            if len(packed) > MOST_TRACE_BYTES:
                limit = MOST_TRACE_BYTES // 2**20
                self.missing.append(f"the trace takes {len(packed) / 2**20:.0f} MiB and was not kept; {limit} are kept")
            else:
                self.trace = base64.b64encode(packed).decode()


def profile_steps(
    engine: Engine,
    stream: Iterator[Tree],
    loss_of: LossOf,
    accumulation: int,
    ranks: Ranks,
    window: Callable[[], Window] = contextlib.nullcontext,
) -> ProfiledSteps:
    """Run `STEPS` steps of the loop under a profiler. Every rank calls it; the steps run even if the profiler fails."""
    profiled = ProfiledSteps()

    def step(clock: RangeClock) -> None:
        run_steps(
            engine, stream, loss_of, clock,
            num_steps=_SKIPPED + STEPS, accumulation=accumulation, phases=True,
        )  # fmt: skip

    ranks.barrier()
    profiled.run(step, ranks, accumulation, window)
    profiled.links = measured_links(ranks)
    if profiled.links is not None:
        profiled.missing += profiled.links.missing
    return profiled


def combined(everyone: Sequence[ProfiledSteps], step_seconds: float) -> dict[str, Any]:
    """A leg's profile, the mean over ranks; `step_seconds` is the mean step without a profiler.

    The writer of the row (`raybench.ledger.dataset`) turns `trace_content` into a file.
    """
    missing = list(dict.fromkeys(text for one in everyone for text in one.missing))
    folds = [one.fold for one in everyone if one.fold is not None]
    told: dict[str, Any] = {
        "steps": STEPS,
        "missing": missing,
        "trace": None,
        "parts": None,
        "links": None if everyone[0].links is None else everyone[0].links.rates,
    }
    if everyone[0].trace:
        told["trace_content"] = everyone[0].trace
    if len(folds) < len(everyone):
        return told
    corrected = [without_overhead(one.parts, one.events, step_seconds) for one in folds]
    with_device = [one for one in folds if one.host is not None]
    told |= {
        "parts": {part: _mean([one.get(part, 0.0) for one in corrected]) for part in _named(corrected)},
        "profiled_step_seconds": _mean([one.step_seconds for one in folds]),
        "overlapped_communication_seconds": _mean([one.overlapped_seconds for one in folds]),
        "host_calls": _mean([one.host_calls for one in folds]),
        "kernels": _mean([one.kernels or 0.0 for one in with_device]) if with_device else None,
        "busy_share": _mean([one.busy_share or 0.0 for one in with_device]) if with_device else None,
    }
    if with_device:
        hosts = [one.host or {} for one in with_device]
        told["host"] = {part: _mean([one.get(part, 0.0) for one in hosts]) for part in _named(hosts)}
    return told


def _named(tables: Sequence[dict[str, float]]) -> list[str]:
    return [part for part in PARTS if any(part in table for table in tables)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
