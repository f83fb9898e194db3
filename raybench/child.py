"""Asks a child process to run code that may crash, hang, or import very heavy libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def ask_child(arguments: list[str], timeout: float) -> dict[str, Any]:
    """The JSON object that `python -m ...arguments` prints last; {"error": why} where there is none."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=timeout, env=environment,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {timeout:.0f} s"}
    lines = done.stdout.strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {"error": f"ended with {how}: {last[:300]}"}
    return answer
