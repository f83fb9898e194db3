"""raybench's commands with this checkout and with another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from raybench.errors import NothingMeasured, UserError

HERE = Path(__file__).parents[1]


def other(before: str) -> Path:
    """The checkout at `before=`. Raises UserError where there is none."""
    if not (Path(before) / "raybench").is_dir():
        raise UserError(f"before={before}: no checkout of raybench lies there")
    return Path(before).absolute()


def run(checkout: Path, command: str, words: list[str], folder: Path) -> None:
    """Run `raybench.COMMAND` with a checkout in a folder, which is made, with its results there and without its output.

    Raises UserError and NothingMeasured where it does not end well; it has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "RAY_ADDRESS": "local"}
    started = [sys.executable, "-m", f"raybench.{command}", *words, f"results={folder}"]
    done = subprocess.run(started, cwd=folder, env=environment, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise (UserError if done.returncode == 2 else NothingMeasured)(f"{checkout}: {command} did not end well")
