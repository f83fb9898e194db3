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


@dataclass(frozen=True)
class Levels:
    """Min, median and max of what was read, and its trace over time."""

    min: float
    median: float
    max: float
    trace: list[float]


@dataclass(frozen=True)
class HostReading:
    """A node's processors during a leg's windows, in cores; None where the system does not say."""

    cores: int
    own_cores: float
    foreign_cores: float | None
    foreign_cores_resolution: float
    foreign_cores_trace: list[float] | None
    stolen_cores: float | None
    throttled_share: float | None  # of the time, held back by the container's CPU limit
    frequency_mhz: Levels | None


@dataclass(frozen=True)
class GpuReading:
    """A GPU during a leg's windows; None where NVML does not say."""

    uuid: str
    name: str | None
    utilization: Levels | None
    sm_clock_mhz: Levels | None
    memory_clock_mhz: Levels | None
    power_watts: Levels | None
    temperature_celsius: Levels | None
    throttle_reasons: dict[str, float] | None  # the share of the samples in which each was given
    foreign_processes: int | None
    energy_joules: float | None


@dataclass(frozen=True)
class NodeReading:
    """What a leg's row keeps of one node's windows."""

    seconds: float
    samples: int
    sampler_cpu_seconds: float
    host: HostReading
    gpus: list[GpuReading]
    node: str = ""  # its name, which the sampler does not know

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NodeReading:
        """The reading that was `asdict`ed; numbers stay as they are, digit by digit."""
        host = HostReading(**_with_levels(values["host"]))
        return cls(**{**values, "host": host, "gpus": [GpuReading(**_with_levels(gpu)) for gpu in values["gpus"]]})


def _with_levels(values: dict[str, Any]) -> dict[str, Any]:
    return {k: Levels(**v) if isinstance(v, dict) and "trace" in v else v for k, v in values.items()}


def summarize(windows: Sequence[Window], cores: int, gpus: Sequence[tuple[str, str | None]]) -> NodeReading:
    """What a leg's row keeps of its windows (one at least). `gpus`: UUID and name of each, in the samples' order."""
    samples = [sample for window in windows for sample in window.samples]
    seconds = sum(window.seconds for window in windows)
    return NodeReading(
        seconds=round(seconds, 4),
        samples=len(samples),
        sampler_cpu_seconds=round(sum(window.sampler_seconds for window in windows), 4),
        host=_host(windows, samples, seconds, cores),
        gpus=[_gpu(windows, samples, index, *gpu) for index, gpu in enumerate(gpus)],
    )


def _host(windows: Sequence[Window], samples: Sequence[Sample], seconds: float, cores: int) -> HostReading:
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
    return HostReading(
        cores=cores,
        own_cores=own,
        foreign_cores=round(max(0.0, busy - own), 4) if counted else None,
        foreign_cores_resolution=resolution,
        foreign_cores_trace=_foreign_trace(windows) if counted else None,
        stolen_cores=rate("stolen"),
        throttled_share=rate("throttled"),
        frequency_mhz=_levels(sample.frequency_mhz for sample in samples),
    )


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


def _gpu(windows: Sequence[Window], samples: Sequence[Sample], index: int, uuid: str, name: str | None) -> GpuReading:
    looks = [sample.gpus[index] for sample in samples]
    reasons = [look.throttle_reasons for look in looks if look.throttle_reasons is not None]
    energies = [window.energy_joules[index] for window in windows]
    foreign = [window.foreign_processes[index] for window in windows]
    return GpuReading(
        uuid=uuid,
        name=name,
        utilization=_levels(look.utilization for look in looks),
        sm_clock_mhz=_levels(look.sm_clock_mhz for look in looks),
        memory_clock_mhz=_levels(look.memory_clock_mhz for look in looks),
        power_watts=_levels(look.power_watts for look in looks),
        temperature_celsius=_levels(look.temperature_celsius for look in looks),
        throttle_reasons=_shares(reasons) if reasons else None,
        foreign_processes=_if_all(foreign, max),
        energy_joules=_if_all(energies, sum),
    )


def _levels(readings: Iterable[float | None]) -> Levels | None:
    """Those of what was read; None where nothing was."""
    values = [value for value in readings if value is not None]
    if not values:
        return None
    stride = max(1, -(-len(values) // TRACE_POINTS))
    trace = [round(statistics.fmean(values[at : at + stride]), 1) for at in range(0, len(values), stride)]
    return Levels(round(min(values), 2), round(statistics.median(values), 2), round(max(values), 2), trace)


def _shares(reasons: Sequence[tuple[str, ...]]) -> dict[str, float]:
    """The share of the samples in which each reason was given."""
    names = sorted({reason for one in reasons for reason in one})
    return {name: round(sum(name in one for one in reasons) / len(reasons), 4) for name in names}


def _if_all(values: Sequence[Any], together: Any) -> Any:
    return None if any(value is None for value in values) else together(values)
