"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """A line of the diagnosis. An error stops sweeps or some of their arms; a warning may. `remedy`: what to do."""

    name: str
    status: Status
    found: str
    remedy: str = ""
