"""What the analysis costs: time and memory at 10^4, 10^5 and 10^6 legs, against what a user would write instead.

    python benchmarks/analysis.py [legs=10000,100000,1000000] [folder=mlruns/benchmark]

Simulated ledgers of settings x 5 arms x 10 trials x 2 rounds with 100 measured steps each (and 10 of warm-up).
Both sides run as processes of their own, start-up included, on the same file one after the other: `raybench` is
`python -m raybench.analysis LEDGER --json`, `pandas` reads the same columns, takes the means leg by leg, groups
by setting and arm, and calls `scipy.stats.ttest_1samp` once a group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from raybench.cli import parse_script, run_command
from tests.analysis.simulation import Truth, simulate_ledger

ARMS = {"ddp": 1.0, "zero1": 1.01, "zero2": 0.97, "zero3": 0.7, "fsdp": 1.05}
LEGS_OF_SETTING = len(ARMS) * 10 * 2

PANDAS = """
import sys, json
import numpy as np, pandas as pd
from scipy import stats
columns = ["setting_id", "trial_id", "arm", "round", "is_baseline", "status", "step_seconds", "warmup_steps"]
frame = pd.read_parquet(sys.argv[1], columns=columns)
frame = frame[frame.status == "ok"]
frame["log"] = [np.log(np.mean(s[w:])) for s, w in zip(frame.step_seconds, frame.warmup_steps)]
cells = frame.groupby(["setting_id", "trial_id", "arm"]).log.mean().unstack()
found = []
for setting, trials in cells.groupby(level="setting_id"):
    for arm in trials.columns.drop("ddp"):
        d = (trials["ddp"] - trials[arm]).dropna()
        test = stats.ttest_1samp(d, 0.0)
        low, high = test.confidence_interval(0.95)
        found.append({"setting_id": setting, "arm": arm, "speedup": float(np.exp(d.mean())),
                      "ci_low": float(np.exp(low)), "ci_high": float(np.exp(high)), "p_value": float(test.pvalue)})
json.dump({"comparisons": found}, sys.stdout)
"""


def measure(command: list[str], output: Path) -> tuple[float, float]:
    """Wall seconds and peak resident GiB of one process, its standard output in a file."""
    start = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    return seconds, usage.ru_maxrss / 2**20


def worst_disagreement(one: Path, other: Path) -> float:
    """The largest relative difference between two outputs' numbers, comparison by comparison."""
    sides = [
        {(c["setting_id"], c["arm"]): c for c in json.loads(path.read_text())["comparisons"]} for path in (one, other)
    ]
    assert sides[0].keys() == sides[1].keys()
    return max(
        abs(sides[0][key][name] / sides[1][key][name] - 1)
        for key in sides[0]
        for name in ("speedup", "ci_low", "ci_high", "p_value")
    )


def main(argv: list[str]) -> int:
    """Print one line a size."""
    values = parse_script(__doc__ or "", {"folder": "mlruns/benchmark", "legs": "10000,100000,1000000"}, argv)
    folder = Path(values["folder"])
    sizes = [int(size) for size in values["legs"].split(",")]
    print(f"{'legs':>9}{'raybench':>12}{'peak':>10}{'pandas':>12}{'peak':>10}{'ratio':>8}{'disagreement':>15}")
    for legs in sizes:
        ledger = folder / str(legs) / "legs.parquet"
        if not ledger.exists():
            simulate_ledger(ledger, Truth(ARMS, legs // LEGS_OF_SETTING, 10, num_steps=100, warmup_steps=10))
        ours, theirs = folder / "raybench.json", folder / "pandas.json"
        seconds, memory = measure([sys.executable, "-m", "raybench.analysis", str(ledger), "--json"], ours)
        pandas_seconds, pandas_memory = measure([sys.executable, "-c", PANDAS, str(ledger)], theirs)
        print(
            f"{legs:>9}{seconds:>10.2f} s{memory:>6.2f} GiB{pandas_seconds:>10.2f} s{pandas_memory:>6.2f} GiB"
            f"{pandas_seconds / seconds:>8.1f}{worst_disagreement(ours, theirs):>15.1e}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    run_command(main)
