"""Environment variables with which a sweep's driver passes information to its worker processes."""

from __future__ import annotations

from typing import Final

RUN: Final = "RAYBENCH_RUN"  # identifies this run of the sweep
WORKING_TREE: Final = "RAYBENCH_WORKING_TREE"  # where the command was started, for processes that run elsewhere
