"""Which share of a sweep's wall time is measured steps, with this checkout and with another one.

    python benchmarks/share.py [space=paper] [size=small] [repeats=1] [before=PATH OF A CHECKOUT] [rounds=1]

Runs the same sweep with each checkout in turn (`rounds` times, the order reversed each time) through Ray on this
machine, each into a ledger of its own, and reads both ledgers with the analysis of this checkout. Prints a line a run
(wall seconds of the command, of the ledger's legs, measured seconds, both shares) and the ratio of the shares.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raybench.analysis import analyse
from raybench.cli import parse_script, run_command
from raybench.errors import NothingMeasured, UserError

HERE = Path(__file__).parents[1]


def main(argv: list[str]) -> int:
    """Print the table. Returns 0."""
    defaults = {"space": "paper", "size": "small", "repeats": 1, "before": "", "rounds": 1}
    values = parse_script(__doc__ or "", defaults, argv)
    if values["rounds"] < 1:
        raise UserError(f"rounds={values['rounds']}: at least 1")
    if values["before"] and not (Path(values["before"]) / "raybench").is_dir():
        raise UserError(f"before={values['before']}: no checkout of raybench lies there")
    checkouts = [HERE, *([Path(values["before"]).absolute()] if values["before"] else [])]
    words = [f"{key}={values[key]}" for key in ("space", "size", "repeats") if values[key]]
    shares: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    print(f"{'checkout':<40}{'wall s':>9}{'legs s':>9}{'measured s':>12}{'of wall':>9}{'of legs':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(values["rounds"]):
            for checkout in checkouts if number % 2 == 0 else reversed(checkouts):
                folder = Path(temporary) / f"{checkouts.index(checkout)}-{number}"
                shares[checkout].append(run(checkout, words, folder))
    mean = [sum(shares[checkout]) / len(shares[checkout]) for checkout in checkouts]
    if len(mean) == 2:
        print(f"share of wall time, this checkout over the other: {mean[0] / mean[1]:.2f}")
    return 0


def run(checkout: Path, words: list[str], folder: Path) -> float:
    """One sweep with one checkout. Prints its line; returns measured seconds over those of the whole command."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "RAY_ADDRESS": "local"}
    command = [sys.executable, "-m", "raybench.sweep", *words, "sweep=share", f"results={folder}", "--quiet"]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, check=False, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - begun
    if done.returncode:  # it has said why
        raise (UserError if done.returncode == 2 else NothingMeasured)(f"the sweep of {checkout} did not end well")
    (ledger,) = folder.glob("*/share")
    costs = analyse([ledger]).costs
    measured, legs = costs.measured_seconds, costs.wall_seconds
    print(f"{checkout!s:<40}{wall:>9.1f}{legs:>9.1f}{measured:>12.1f}{measured / wall:>9.3f}{measured / legs:>9.3f}")
    return measured / wall


if __name__ == "__main__":
    run_command(main)
