"""What this process may use of its machine, as its control group (version 1 or 2) allows: processors and memory.

A group is looked for at its own path, and at the root of the mount, which inside a container is the container's.
"""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def read_text(file: Path) -> str | None:
    """A file of the system without its line's end; None where it cannot be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def group_files(controller: str, name: str) -> list[Path]:
    """The files of this name in this process's groups that a controller (`cpu`, `memory`) belongs to."""
    lines = (read_text(Path("/proc/self/cgroup")) or "").splitlines()
    folders = [CGROUPS, CGROUPS / controller]
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers or controller in controllers.split(","):
            folders.append(CGROUPS / controllers / path.lstrip("/"))
    return [file for folder in dict.fromkeys(folders) if (file := folder / name).is_file()]


def cpu_limit() -> float | None:
    """How many processors may be used; None without a limit."""
    told = [(read_text(file) or "").split() for file in group_files("cpu", "cpu.max")]
    for file in group_files("cpu", "cpu.cfs_quota_us"):
        told.append([read_text(file) or "", read_text(file.with_name("cpu.cfs_period_us")) or ""])
    pairs = [[int(word) for word in words] for words in told if all(word.isdigit() for word in words)]
    return min((quota / period for quota, period in pairs if quota and period), default=None)


def memory_limit() -> int | None:
    """Bytes of memory that may be used; None without a limit below the machine's memory."""
    return _tightest()[0]


def memory_left() -> tuple[int, int]:
    """(bytes that are free, bytes in all) as this process may use them. Pages of files that can be dropped are free."""
    memory, (limit, file) = psutil.virtual_memory(), _tightest()
    if limit is None or file is None:
        return memory.available, memory.total
    used = "memory.current" if file.name == "memory.max" else "memory.usage_in_bytes"
    stat = dict(line.split(" ", 1) for line in (read_text(file.with_name("memory.stat")) or "").splitlines())
    files = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    taken = int(read_text(file.with_name(used)) or 0) - int(files)
    return min(memory.available, max(0, limit - max(0, taken))), limit


def _tightest() -> tuple[int | None, Path | None]:
    """The smallest limit of memory and its file. "No limit" is `max`, or a number larger than the machine's memory."""
    files = [*group_files("memory", "memory.max"), *group_files("memory", "memory.limit_in_bytes")]
    found = [(int(text), file) for file in files if (text := read_text(file) or "").isdigit()]
    limit, file = min(found, default=(None, None))
    return (limit, file) if limit is not None and limit < psutil.virtual_memory().total else (None, None)
