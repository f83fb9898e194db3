"""The host's counters: CPU time of the trial's own processes and of everything else, clocks, a container's throttling.

Foreign CPU time is what all processors worked (user, nice and system time, interrupts left out) less what the trial's
processes and their children did. It counts everything that is not the trial, raybench's driver and Ray's own processes
included: what disturbs, disturbs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from raybench.machine.limits import group_files, read_text

_TICK_SECONDS = 0.01  # in which Linux shows CPU times
_MOST_FREQUENCIES = 16  # processors whose clock is read: each read interrupts the processor


@dataclass(frozen=True)
class HostCounters:
    """Seconds since boot; differences of two readings are meant."""

    busy: float  # of all processors together
    own: float  # of the trial's processes, their children and the sampler
    stolen: float  # that a hypervisor gave to other guests
    throttled: float | None  # that the container's CPU limit held its processes back; None where it does not say


class Host:
    """Reads the counters of this node; `pids` are the trial's processes on it."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._ranks = list(_running(pids))
        self._sampler = psutil.Process()
        self._own: list[psutil.Process] = []
        self._cpu_stat = _cpu_stat_file()
        self._frequencies = _frequency_files()
        self.missing = [
            *([] if self._frequencies else ["CPU frequency (no cpufreq here)"]),
            *([] if self._cpu_stat else ["CPU throttling (no cgroup's cpu.stat here)"]),
        ]
        self.find_children()

    def find_children(self) -> None:
        """Look again which processes are the trial's: it walks over all processes, so never inside a window."""
        children: list[psutil.Process] = []
        for rank in self._ranks:
            with contextlib.suppress(psutil.Error):
                children += [child for child in rank.children(recursive=True) if child != self._sampler]
        self._own = [*self._ranks, *children]

    def read(self) -> HostCounters:
        """The counters of now."""
        times = psutil.cpu_times()
        busy = times.user + getattr(times, "nice", 0.0) + times.system
        own = sum(self._sampler.cpu_times()[:2])
        for process in self._own:
            with contextlib.suppress(psutil.NoSuchProcess):
                own += sum(process.cpu_times()[:4])  # and those of its children that have ended
        return HostCounters(busy, own, getattr(times, "steal", 0.0), self._throttled_seconds())

    def frequency_mhz(self) -> float | None:
        """The mean clock of the processors (of 16 at most); None where the system does not show it."""
        try:
            clocks = [int(file.read_text()) for file in self._frequencies]
        except (OSError, ValueError):
            return None
        return sum(clocks) / len(clocks) / 1e3 if clocks else None

    def resolution_seconds(self) -> float:
        """By how much a difference of foreign CPU time can be off, from the ticks in which each part is counted."""
        return _TICK_SECONDS * (3 + 2 * (len(self._own) + 1))

    def _throttled_seconds(self) -> float | None:
        if self._cpu_stat is None:
            return None
        try:
            return throttled_seconds(self._cpu_stat.read_text())
        except OSError:
            return None


def _running(pids: Iterable[int]) -> Iterable[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def throttled_seconds(cpu_stat: str) -> float | None:
    """What a cgroup's cpu.stat says of throttling: microseconds in version 2, nanoseconds in version 1."""
    values = dict(line.split() for line in cpu_stat.splitlines() if len(line.split()) == 2)
    if "throttled_usec" in values:
        return int(values["throttled_usec"]) / 1e6
    return int(values["throttled_time"]) / 1e9 if "throttled_time" in values else None


def _cpu_stat_file() -> Path | None:
    """The cpu.stat of this process's cgroup, in a container that of the container."""
    files = reversed(group_files("cpu", "cpu.stat"))
    return next((file for file in files if throttled_seconds(read_text(file) or "") is not None), None)


def _frequency_files() -> list[Path]:
    """cpufreq's present clock of the processors that this process may run on, in kHz."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return []
    chosen = allowed[:: max(1, -(-len(allowed) // _MOST_FREQUENCIES))]
    files = [Path(f"/sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq") for number in chosen]
    return [file for file in files if file.exists()]
