"""When a leg counts as contaminated: something other than its arm may have changed its step times.

The rule is fixed before any ratio is looked at, and the same for all arms. Its limits are judgements about the margin
that most sweeps ask for, 3 %: what takes 5 % of a node's processors can cost a step that much.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from raybench.telemetry.window import GpuReading, HostReading, Levels, NodeReading

FOREIGN_CPU_SHARE: Final = 0.05  # of the node's processors, mean over the window
# ... beyond what Ray's own daemons take beside every leg of a sweep, in processors: 0.13 measured on a machine with 2.
RAY_CORES: Final = 0.15
STOLEN_CPU_SHARE: Final = 0.05  # as above, given to other guests by the hypervisor
THROTTLED_SHARE: Final = 0.01  # of the window's time, held back by the container's CPU limit
GPU_CLOCK_DROP: Final = 0.05  # of the SM clock, from the window's first quarter to its last
CPU_CLOCK_DROP: Final = 0.10  # processors' clocks wander more by themselves
THROTTLE_REASONS: Final = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake")


def contamination(nodes: Sequence[NodeReading]) -> list[str] | None:
    """The reasons, in words, from the readings of all nodes of a leg; empty where it was clean.

    None where that is not known: no reading, or one without the host's CPU times and without another reason.
    """
    reasons = [reason for node in nodes for reason in [*_host(node.host), *_gpus(node.gpus)]]
    if not nodes or (not reasons and any(node.host.foreign_cores is None for node in nodes)):
        return None
    return list(dict.fromkeys(reasons))


def _host(host: HostReading) -> list[str]:
    reasons = []
    cores, foreign = host.cores, host.foreign_cores
    if foreign is not None and foreign - host.foreign_cores_resolution > FOREIGN_CPU_SHARE * cores + RAY_CORES:
        reasons.append("foreign CPU use")
    if (host.stolen_cores or 0.0) > STOLEN_CPU_SHARE * cores:
        reasons.append("CPU time stolen by the hypervisor")
    if (host.throttled_share or 0.0) > THROTTLED_SHARE:
        reasons.append("CPU limit of the container")
    if _drop(host.frequency_mhz) > CPU_CLOCK_DROP:
        reasons.append("CPU clock drop")
    return reasons


def _gpus(gpus: Sequence[GpuReading]) -> list[str]:
    reasons = []
    for gpu in gpus:
        shares = gpu.throttle_reasons or {}
        reasons += [f"GPU throttled: {name}" for name in THROTTLE_REASONS if shares.get(name)]
        if gpu.foreign_processes:
            reasons.append("foreign process on the GPU")
        if _drop(gpu.sm_clock_mhz) > GPU_CLOCK_DROP:
            reasons.append("GPU clock drop")
    return reasons


def _drop(levels: Levels | None) -> float:
    """By which share the trace's last quarter lies below its first; 0 where there are too few points to say."""
    trace = levels.trace if levels else []
    quarter = len(trace) // 4
    if quarter < 2:
        return 0.0
    first, last = statistics.median(trace[:quarter]), statistics.median(trace[-quarter:])
    return 1.0 - last / first if first > 0 else 0.0
