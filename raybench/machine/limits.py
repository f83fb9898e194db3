"""What a container allows of its machine: processors and memory, from its control group, version 1 or 2."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def read_text(file: Path) -> str | None:
    """A file of the system without its line's end; None where it cannot be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def cpu_limit() -> float | None:
    """How many processors may be used; None without a limit."""
    quota, _, period = (read_text(CGROUPS / "cpu.max") or "").partition(" ")
    if not period:
        quota = read_text(CGROUPS / "cpu/cpu.cfs_quota_us") or ""
        period = read_text(CGROUPS / "cpu/cpu.cfs_period_us") or ""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        limit = int(quota) / int(period)
        return limit if limit > 0 else None
    return None


def memory_limit() -> int | None:
    """Bytes of memory that may be used; None without a limit below the machine's memory."""
    text = read_text(CGROUPS / "memory.max") or read_text(CGROUPS / "memory/memory.limit_in_bytes") or ""
    limit = int(text) if text.isdigit() else None
    return limit if limit is not None and limit < psutil.virtual_memory().total else None  # "no limit" is a huge number


def memory_left() -> tuple[int, int]:
    """(bytes that are free, bytes in all) as this process may use them. Pages of files that can be dropped are free."""
    memory, limit = psutil.virtual_memory(), memory_limit()
    if limit is None:
        return memory.available, memory.total
    folder = CGROUPS if (CGROUPS / "memory.max").exists() else CGROUPS / "memory"
    used = read_text(folder / "memory.current") or read_text(folder / "memory.usage_in_bytes") or ""
    stat = dict(line.split(" ", 1) for line in (read_text(folder / "memory.stat") or "").splitlines() if " " in line)
    files = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    taken = int(used) - int(files) if used.isdigit() and files.isdigit() else 0
    return min(memory.available, max(0, limit - max(0, taken))), limit
