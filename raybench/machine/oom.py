"""The kernel's OOM killer."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path


def oom_kills() -> int:
    """How many processes the OOM killer has ended: in this control group where it has its own count (version 2), else
    on this machine; 0 where neither is known."""
    with suppress(OSError):
        group = re.search(r"^0::(/.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        for file in (Path(f"/sys/fs/cgroup{group[1]}/memory.events") if group else Path(), Path("/proc/vmstat")):
            if file.is_file():
                found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
                return int(found[1]) if found else 0
    return 0
