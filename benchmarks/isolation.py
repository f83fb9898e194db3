"""What sharing processes saves: the scatter of one trial's log ratio in A/A, `shared` against `fresh` processes a leg.

    python benchmarks/isolation.py [space=quickstart] [repeats=12] [folder=FOLDER] [key=value ...]

Calibrates the space with both kinds of isolation (`raybench.calibrate ... isolation=both`), and prints for each
setting the variance ratio at equal machine time, and how many trials and seconds each kind needs until a 95 %
interval reaches 3 % to each side, were the scatter exactly as found.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from raybench.calibration.detection import half_width
from raybench.cli import parse_script, run_command
from raybench.errors import NothingMeasured, UserError

REACH, ALPHA, MOST = 0.03, 0.05, 1000


def trials_until(deviation: float) -> int:
    """The fewest trials whose interval reaches no further than `REACH`."""
    return next((n for n in range(2, MOST) if half_width(n, ALPHA, deviation) <= REACH), MOST)


def main(argv: list[str]) -> int:
    """Calibrate and print one block a setting."""
    defaults = {"space": "quickstart", "setting.model": "lenet", "repeats": 12, "folder": ""}
    values = parse_script(__doc__ or "", defaults, argv, takes_space=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(values.pop("folder") or temporary).absolute()
        words = [f"{key}={value}" for key, value in values.items()]
        command = [sys.executable, "-m", "raybench.calibrate", *words, "isolation=both", f"results={folder}", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:  # it has said why
            raise (UserError if done.returncode == 2 else NothingMeasured)("the calibration did not end well")
    for setting in json.loads(done.stdout)["settings"]:
        found = setting["isolation"]
        print(f"{setting['setting']}, {setting['n_trials']} trials")
        if found is None:
            print("  not measured: a kind of trial has no scatter or no time")
            continue
        needed = {}
        for kind in ("shared", "fresh"):
            deviation, seconds = found[f"{kind}_deviation"], found[f"{kind}_trial_seconds"]
            trials = trials_until(deviation)
            needed[kind] = trials * seconds
            print(
                f"  {kind:<7} scatter {deviation:.2%}, {seconds:.1f} s a trial: {trials} trials, {needed[kind]:.0f} s "
                f"until +-{REACH:.0%}"
            )
        ratio, low, high = found["variance_ratio"], found["low"], found["high"]
        print(f"  variance at equal machine time, fresh over shared: {ratio:.2f} (95 %: {low:.2f} to {high:.2f})")
        if needed["fresh"] and math.isfinite(needed["fresh"]):
            print(f"  shared takes {1 - needed['shared'] / needed['fresh']:.0%} fewer seconds to reach +-{REACH:.0%}")
    return 0


if __name__ == "__main__":
    run_command(main)
