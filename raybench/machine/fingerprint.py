"""What a machine is, without its name: machines with equal fingerprints measure alike.

Processor, cores, GPUs, and the versions of torch and DeepSpeed, from a ledger row's environment or for this machine. No
torch here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from raybench.machine.installed import installed_version

_PACKAGES: Final = ("torch", "deepspeed")
Fingerprint = dict[str, str | int | None]


def fingerprint(environment: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of the machine on which a leg ran; `gpu` is None where it ran on the CPU."""
    packages = environment.get("packages") or {}
    return {
        **{name: environment.get(name) for name in ("cpu", "cpu_cores", "gpu")},
        **{name: packages.get(name) for name in _PACKAGES},
    }


def this_machine(*, with_gpu: bool = True) -> Fingerprint:
    """This machine's fingerprint, as a leg here would record it; `with_gpu` for a leg that may use a GPU."""
    gpus = _gpu_models() if with_gpu else []
    return {
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "gpu": gpus[0] if gpus else None,
        **{name: installed_version(name) for name in _PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name from Linux, else from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu_models() -> list[str]:
    """The names of this machine's NVIDIA GPUs, as the driver tells them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
