"""Which share of a sweep's wall time is measured steps, with this checkout and with another one.

    python benchmarks/share.py [space=paper] [size=small] [repeats=1] [before=PATH OF A CHECKOUT] [rounds=1]

Runs the same sweep with each checkout in turn (`rounds` times, the order reversed each time) through Ray on this
machine, each into a ledger of its own, and reads both ledgers with the analysis of this checkout. Prints a line a run
(wall seconds of the command, of the ledger's legs, measured seconds, both shares) and the ratio of the shares.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from checkouts import HERE, other, run

from raybench.analysis import analyse
from raybench.cli import parse_script, run_command
from raybench.errors import UserError


def main(argv: list[str]) -> int:
    """Print the table. Returns 0."""
    defaults = {"space": "paper", "size": "small", "repeats": 1, "before": "", "rounds": 1}
    values = parse_script(__doc__ or "", defaults, argv)
    if values["rounds"] < 1:
        raise UserError(f"rounds={values['rounds']}: at least 1")
    checkouts = [HERE, *([other(values["before"])] if values["before"] else [])]
    words = [f"{key}={values[key]}" for key in ("space", "size", "repeats") if values[key]]
    shares: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    print(f"{'checkout':<40}{'wall s':>9}{'legs s':>9}{'measured s':>12}{'of wall':>9}{'of legs':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(values["rounds"]):
            for checkout in checkouts if number % 2 == 0 else reversed(checkouts):
                folder = Path(temporary) / f"{checkouts.index(checkout)}-{number}"
                shares[checkout].append(share(checkout, words, folder))
    mean = [sum(shares[checkout]) / len(shares[checkout]) for checkout in checkouts]
    if len(mean) == 2:
        print(f"share of wall time, this checkout over the other: {mean[0] / mean[1]:.2f}")
    return 0


def share(checkout: Path, words: list[str], folder: Path) -> float:
    """One sweep with one checkout. Prints its line; returns measured seconds over those of the whole command."""
    begun = time.perf_counter()
    run(checkout, "sweep", [*words, "sweep=share", "--quiet"], folder)
    wall = time.perf_counter() - begun
    (ledger,) = folder.glob("*/share")
    costs = analyse([ledger]).costs
    measured, legs = costs.measured_seconds, costs.wall_seconds
    print(f"{checkout!s:<40}{wall:>9.1f}{legs:>9.1f}{measured:>12.1f}{measured / wall:>9.3f}{measured / legs:>9.3f}")
    return measured / wall


if __name__ == "__main__":
    run_command(main)
