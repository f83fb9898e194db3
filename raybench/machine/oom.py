"""The kernel's OOM killer."""

from __future__ import annotations

import re
from pathlib import Path

from raybench.machine.limits import group_files, read_text


def oom_kills() -> int:
    """How many processes the OOM killer has ended: in this control group where it has its own count (version 2), else
    on this machine; 0 where neither is known."""
    for file in (*reversed(group_files("memory", "memory.events")), Path("/proc/vmstat")):
        if (text := read_text(file)) is not None:
            found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
            return int(found[1]) if found else 0
    return 0
