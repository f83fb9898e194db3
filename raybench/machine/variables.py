"""Environment variables by which a sweep's driver tells its worker processes what they cannot find out themselves."""

from __future__ import annotations

from typing import Final

RUN: Final = "RAYBENCH_RUN"  # names this run of the sweep
WORKING_TREE: Final = "RAYBENCH_WORKING_TREE"  # where the command was started, for processes that run elsewhere
