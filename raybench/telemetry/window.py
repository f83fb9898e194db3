"""A window's samples and what is kept of them: for each reading min, median, max and a thinned trace.

CPU times are counters, so that a window's mean is exact whatever happens between samples; clocks, power and the like
are looked at once a sample. A leg may have several windows: they count as one after another.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raybench.telemetry.host import HostCounters
from raybench.telemetry.nvml import GpuSample

TRACE_POINTS = 32


@dataclass(frozen=True)
class Sample:
    """One look at the node; `seconds` by the monotonic clock."""

    seconds: float
    host: HostCounters
    frequency_mhz: float | None
    gpus: tuple[GpuSample, ...]


@dataclass
class Window:
    """From one `begin` to its `end`: at least the samples of these two moments."""

    samples: list[Sample]
    resolution_seconds: float
    sampler_seconds: float = 0.0  # CPU time of the sampler itself
    energy_joules: list[float | None] = field(default_factory=list)  # of each GPU
    foreign_processes: list[int | None] = field(default_factory=list)  # of each GPU, the most that were seen

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.samples[-1].seconds - self.samples[0].seconds


def summarize(windows: Sequence[Window], cores: int, gpus: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """What a leg's row keeps of its windows (one at least). `gpus`: UUID and name of each, in the samples' order."""
    samples = [sample for window in windows for sample in window.samples]
    seconds = sum(window.seconds for window in windows)
    return {
        "seconds": round(seconds, 4),
        "samples": len(samples),
        "sampler_cpu_seconds": round(sum(window.sampler_seconds for window in windows), 4),
        "host": _host(windows, samples, seconds, cores),
        "gpus": [_gpu(windows, samples, index, *gpu) for index, gpu in enumerate(gpus)],
    }


def _host(windows: Sequence[Window], samples: Sequence[Sample], seconds: float, cores: int) -> dict[str, Any]:
    def rate(name: str) -> float | None:
        ends = [(getattr(w.samples[0].host, name), getattr(w.samples[-1].host, name)) for w in windows]
        if seconds <= 0 or any(value is None for pair in ends for value in pair):
            return None
        total: float = sum(last - first for first, last in ends)
        return round(total / seconds, 4)

    busy, own = rate("busy") or 0.0, rate("own") or 0.0
    resolution = round(sum(w.resolution_seconds for w in windows) / max(seconds, 1e-9), 4)
    # Some containers show a /proc/stat that stands still, against which nothing can be held.
    counted = busy >= own / 2 - resolution
    return {
        "cores": cores,
        "own_cores": own,
        "foreign_cores": round(max(0.0, busy - own), 4) if counted else None,
        "foreign_cores_resolution": resolution,
        "foreign_cores_trace": _foreign_trace(windows) if counted else None,
        "stolen_cores": rate("stolen"),
        "throttled_share": rate("throttled"),
        "frequency_mhz": _levels(sample.frequency_mhz for sample in samples),
    }


def _foreign_trace(windows: Sequence[Window]) -> list[float]:
    """Foreign CPU time over time, in cores: between every so many samples of each window."""
    points = max(1, TRACE_POINTS // len(windows))
    trace = []
    for window in windows:
        stride = max(1, -(-(len(window.samples) - 1) // points))
        looks = [*window.samples[:-1:stride], window.samples[-1]]
        for before, after in itertools.pairwise(looks):
            foreign = (after.host.busy - before.host.busy) - (after.host.own - before.host.own)
            trace.append(round(max(0.0, foreign) / max(after.seconds - before.seconds, 1e-9), 3))
    return trace


def _gpu(
    windows: Sequence[Window], samples: Sequence[Sample], index: int, uuid: str, name: str | None
) -> dict[str, Any]:
    looks = [sample.gpus[index] for sample in samples]
    reasons = [look.throttle_reasons for look in looks if look.throttle_reasons is not None]
    energies = [window.energy_joules[index] for window in windows]
    foreign = [window.foreign_processes[index] for window in windows]
    return {
        "uuid": uuid,
        "name": name,
        "utilization": _levels(look.utilization for look in looks),
        "sm_clock_mhz": _levels(look.sm_clock_mhz for look in looks),
        "memory_clock_mhz": _levels(look.memory_clock_mhz for look in looks),
        "power_watts": _levels(look.power_watts for look in looks),
        "temperature_celsius": _levels(look.temperature_celsius for look in looks),
        "throttle_reasons": _shares(reasons) if reasons else None,
        "foreign_processes": _if_all(foreign, max),
        "energy_joules": _if_all(energies, sum),
    }


def _levels(readings: Iterable[float | None]) -> dict[str, Any] | None:
    """Min, median, max and the trace of what was read; None where nothing was."""
    values = [value for value in readings if value is not None]
    if not values:
        return None
    stride = max(1, -(-len(values) // TRACE_POINTS))
    return {
        "min": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "max": round(max(values), 2),
        "trace": [round(statistics.fmean(values[at : at + stride]), 1) for at in range(0, len(values), stride)],
    }


def _shares(reasons: Sequence[tuple[str, ...]]) -> dict[str, float]:
    """The share of the samples in which each reason was given."""
    names = sorted({reason for one in reasons for reason in one})
    return {name: round(sum(name in one for one in reasons) / len(reasons), 4) for name in names}


def _if_all(values: Sequence[Any], together: Any) -> Any:
    return None if any(value is None for value in values) else together(values)
