"""What sharing processes saves, and what it costs in truth: scatter and bias of one trial's log ratio in A/A.

    python benchmarks/isolation.py [space=quickstart] [repeats=12] [folder=FOLDER] [key=value ...]
    python benchmarks/isolation.py before=PATH OF A CHECKOUT [repeats=12] [parts=3] [space=quickstart] [key=value ...]

Without `before=`, `shared` against `fresh` processes a leg: calibrates the space with both kinds of isolation
(`raybench.calibrate ... isolation=both`), and prints for each setting the variance ratio at equal machine time, and
how many trials and seconds each kind needs until a 95 % interval reaches 3 % to each side, were the scatter as found.

With `before=`, this checkout against another one: both calibrate the space, alternately and in parts of the repeats,
and this checkout's analysis reads both ledgers. Prints for each setting the scatter, the speedup of the baseline over
itself, which is 1 where a trial has no bias, and the ratio of the two variances.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkouts import HERE, other, run
from scipy import stats

from raybench.analysis import Comparison, analyse
from raybench.calibration.detection import half_width
from raybench.cli import parse_script, run_command
from raybench.errors import NothingMeasured, UserError

REACH, ALPHA, MOST = 0.03, 0.05, 1000


def trials_until(deviation: float) -> int:
    """The fewest trials whose interval reaches no further than `REACH`."""
    return next((n for n in range(2, MOST) if half_width(n, ALPHA, deviation) <= REACH), MOST)


def main(argv: list[str]) -> int:
    """Calibrate and print one block a setting."""
    defaults = {
        "space": "quickstart", "setting.model": "lenet", "repeats": 12, "folder": "", "before": "", "parts": 3,
    }  # fmt: skip
    values = parse_script(__doc__ or "", defaults, argv, takes_space=True)
    before, parts = values.pop("before"), values.pop("parts")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(values.pop("folder") or temporary).absolute()
        if before:
            return compare(other(before), parts, values, folder)
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


def compare(before: Path, parts: int, values: dict[str, Any], folder: Path) -> int:
    """A/A of this checkout and of another one. Prints a block a setting; returns 0."""
    repeats = values.pop("repeats")
    if not 1 <= parts <= repeats:
        raise UserError(f"parts={parts}: from 1 to the number of repeats, {repeats}")
    words = [f"{key}={value}" for key, value in values.items()]
    checkouts = {"this checkout": HERE, "the other one": before}
    for part in range(1, parts + 1):
        for name in list(checkouts)[:: 1 if part % 2 else -1]:
            now = [*words, f"repeats={repeats * part // parts}", "--json"]  # what is there already is not run again
            run(checkouts[name], "calibrate", now, folder / name)
    found = {name: again(folder / name) for name in checkouts}
    for setting, here in found["this checkout"].items():
        if (there := found["the other one"].get(setting)) is None:
            raise NothingMeasured(f"{before}: its calibration has no setting {setting}; name a space=FILE for both")
        print(setting)
        for name, comparison in zip(checkouts, (here, there), strict=True):
            speedup, deviation = comparison.speedup, comparison.judgement.deviation
            if speedup.value is None or deviation is None:
                raise NothingMeasured(f"{name}, {setting}: too few trials for a scatter")
            print(
                f"  {name}: scatter {deviation:.2%}, speedup over itself {speedup.value:.4f} "
                f"({speedup.low:.4f} to {speedup.high:.4f}), {comparison.n_trials} trials"
            )
        ratio = (here.judgement.deviation / there.judgement.deviation) ** 2
        low, high = (ratio / stats.f.ppf(p, here.n_trials - 1, there.n_trials - 1) for p in (1 - ALPHA / 2, ALPHA / 2))
        print(f"  variance, this checkout over the other one: {ratio:.2f} (95 %: {low:.2f} to {high:.2f})")
    return 0


def again(folder: Path) -> dict[str, Comparison]:
    """By setting: the baseline over itself."""
    (ledger,) = folder.glob("calibration/*")
    return {one.where.setting: one for one in analyse([ledger]).comparisons if one.arm.endswith("_again")}


if __name__ == "__main__":
    run_command(main)
