"""The machine that a process runs on: processors, memory, container limits, GPUs and their links.

Every entry is None where the system does not tell.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from raybench.machine.fingerprint import cpu_model
from raybench.machine.limits import cpu_limit, memory_limit, read_text
from raybench.telemetry import nvml

_CPUS = Path("/sys/devices/system/cpu")
_SECONDS_TO_GO_AWAY = 10.0  # for processes of the previous trial to end


def processors() -> dict[str, Any]:
    """The processors' model and number, and the settings that affect their speed."""
    return {
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_physical": psutil.cpu_count(logical=False),
        "cpu_cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_governor": read_text(_CPUS / "cpu0/cpufreq/scaling_governor"),
        "cpu_turbo_off": read_text(_CPUS / "intel_pstate/no_turbo"),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        "memory_bytes": psutil.virtual_memory().total,
        "huge_pages": _chosen(read_text(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
    }


def container() -> dict[str, Any]:
    """Whether this is a virtual machine or a container, and the container's limits."""
    return {
        "virtual_machine": _has_flag("hypervisor"),
        "container": _container(),
        "cpu_limit": cpu_limit(),
        "memory_limit_bytes": memory_limit(),
    }


def gpu(device: torch.device) -> dict[str, Any]:
    """This process's GPU and its software; empty on a CPU."""
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    missing: list[str] = []
    library = nvml.open_library(missing)
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_uuid": str(properties.uuid),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),
        "driver": nvml.driver_version(library) if library is not None else None,
    }


def gpu_links(uuids: list[str]) -> list[str] | None:
    """How each pair of these GPUs of one node is linked, in order, as `0-1 NVLink`."""
    missing: list[str] = []
    library = nvml.open_library(missing) if uuids else None
    if library is None:
        return None
    return nvml.links(nvml.open_gpus(uuids, library, missing), library)


def foreign_processes(uuid: str) -> int | None:
    """Other compute processes on a GPU that do not go away; None where NVML cannot tell."""
    missing: list[str] = []
    gpus = nvml.open_gpus([uuid], nvml.open_library(missing), missing)
    deadline = time.monotonic() + _SECONDS_TO_GO_AWAY
    while True:
        number = gpus[0].foreign_processes([os.getpid()]) if gpus else None
        if not number or time.monotonic() > deadline:
            return number
        time.sleep(0.5)


def _has_flag(flag: str) -> bool | None:
    flags = [line for line in (read_text(Path("/proc/cpuinfo")) or "").splitlines() if line.startswith("flags")]
    return flag in flags[0].split() if flags else None


def _container() -> str | None:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "docker" if Path("/.dockerenv").exists() else None


def _chosen(choices: str | None) -> str | None:
    """The bracketed word in `always [madvise] never`."""
    return choices.partition("[")[2].partition("]")[0] or None if choices else None
