"""Memory peaks of one leg: the host's resident set and the accelerator's allocations."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import psutil
import torch

_PROC = Path("/proc/self")


def reset_peaks(device: torch.device) -> bool:
    """Begin a new peak here. False where the host's peak cannot be reset (it is then read as the size at the end)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        (_PROC / "clear_refs").write_text("5")  # Linux: resets VmHWM
    except OSError:
        return False
    return True


def peak_host_bytes(was_reset: bool) -> int:
    """The largest resident set since `reset_peaks`, in bytes; the present one where the peak cannot be reset."""
    if was_reset:
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def peak_device_bytes(device: torch.device) -> int | None:
    """The most bytes that tensors took on the accelerator since `reset_peaks`; None on a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def release(device: torch.device) -> None:
    """Give back what a torn-down leg left behind, so that the next leg starts as the first did."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError):  # another C library: its freed pages stay with the process
        ctypes.CDLL(None).malloc_trim(0)  # glibc: hand freed pages back
