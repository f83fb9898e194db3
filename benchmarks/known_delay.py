"""Does the interval hold the truth? Small sweeps in which arms are slower by a known 2, 5 and 10 % a step.

    python benchmarks/known_delay.py [sweeps=20] [trials=3] [steps=60] [folder=FOLDER]

LeNet on one CPU worker, a plain arm and others whose engine stretches each step by a known share, nothing at all
in the control; every trial is a fresh process, its legs are real ones, and each sweep's ledger goes through the
analysis. Printed for each delay: in how many sweeps the 95 % interval holds the true speedup, 1 / (1 + delay), the
geometric mean of the estimates with its own 95 % interval over sweeps, the median reach of a sweep's interval to each
side, and the verdicts. A nominal 95 % interval is to hold the truth in at least 19 of 20 sweeps.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import stats  # noqa: E402

from raybench.analysis import Comparison, analyse  # noqa: E402
from raybench.cli import parse_script, run_command  # noqa: E402
from raybench.declare.plan import Plan, build_plan  # noqa: E402
from raybench.declare.space import Space  # noqa: E402
from raybench.ledger.dataset import Ledger  # noqa: E402
from raybench.training import leg as legs_of_training  # noqa: E402
from raybench.training.ranks import Ranks  # noqa: E402
from raybench.training.worker import run_legs  # noqa: E402
from tests.training.delayed import Delayed  # noqa: E402

DELAYS = {"late_0": 0.0, "late_2": 0.02, "late_5": 0.05, "late_10": 0.10}


def build(sweep: int, trials: int, steps: int) -> Plan:
    """The plan of one sweep; its seed is the sweep's number, so that orders and weights differ."""
    space = Space.model_validate(
        {
            "setting": {"model": "lenet", "dataset": "digits", "batch_size": 16, "device": "cpu"},
            "arms": {"plain": {"engine": "torch"}, **{name: {"engine": "torch"} for name in DELAYS}},
            "protocol": {"warmup_steps": 10, "steps": steps, "rounds": 2, "phases": False, "telemetry": False},
            "repeats": trials,
            "seed": sweep,
        }
    )
    return build_plan("known_delay", space, f"sweep-{sweep}")


def run_trial(plan_file: Path, number: int, folder: Path) -> None:
    """Run one trial's legs in this process, the late arms late."""
    plan = Plan.model_validate_json(plan_file.read_bytes())
    trial, ledger, build_engine = plan.trials[number], Ledger(folder), legs_of_training.build_engine

    def build_delayed(leg: Any, *others: Any) -> Any:
        engine = build_engine(leg, *others)
        return Delayed(engine, DELAYS[leg.arm_name]) if leg.arm_name in DELAYS else engine

    def record(leg: Any, outcome: Any) -> None:
        ledger.add(plan.sweep, plan.space, trial, leg, outcome)

    torch.set_num_threads(1)
    with patch.object(legs_of_training, "build_engine", build_delayed):
        run_legs([(trial, trial.legs)], Ranks(0, 1, torch.device("cpu"), None), lambda _: None, record)


def run_sweep(sweep: int, trials: int, steps: int, folder: Path) -> tuple[Comparison, ...]:
    """One sweep's comparisons; its trials are processes of their own, one after another."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = build(sweep, trials, steps)
    (folder / "plan.json").write_text(plan.model_dump_json())
    for number in range(trials):
        command = [sys.executable, __file__, "trial", str(folder / "plan.json"), str(number), str(folder / "ledger")]
        subprocess.run(command, cwd=ROOT, check=True)
    return analyse([folder / "ledger"]).comparisons


def main(argv: list[str]) -> int:
    """Print one line a delay."""
    if argv[:1] == ["trial"]:
        run_trial(Path(argv[1]), int(argv[2]), Path(argv[3]))
        return 0
    values = parse_script(__doc__ or "", {"sweeps": 20, "trials": 3, "steps": 60, "folder": ""}, argv)
    sweeps, trials, steps = values["sweeps"], values["trials"], values["steps"]
    found: dict[str, list[Comparison]] = {name: [] for name in DELAYS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(values["folder"] or temporary)
        for sweep in range(sweeps):
            for comparison in run_sweep(sweep, trials, steps, folder / str(sweep)):
                found[comparison.arm].append(comparison)
            print(f"sweep {sweep + 1} of {sweeps}", file=sys.stderr, flush=True)
    print(f"{'delay':>6}{'truth':>9}{'estimate':>10}{'95 % of it':>19}{'held':>10}{'reach':>8}   verdicts")
    for name, share in DELAYS.items():
        truth = 1 / (1 + share)
        held = sum((c.speedup.low or 2.0) <= truth <= (c.speedup.high or 0.0) for c in found[name])
        logs = np.log([c.speedup.value for c in found[name]])
        reach = stats.t.ppf(0.975, sweeps - 1) * logs.std(ddof=1) / np.sqrt(sweeps)
        low, estimate, high = np.exp([logs.mean() - reach, logs.mean(), logs.mean() + reach])
        wide = np.median([(c.speedup.high or np.inf) / (c.speedup.value or 1.0) - 1 for c in found[name]])
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(c.verdict for c in found[name]).items())
        print(
            f"{share:>6.0%}{truth:>9.4f}{estimate:>10.4f}{f'{low:.4f} to {high:.4f}':>19}{f'{held} of {sweeps}':>10}"
            f"{wide:>8.1%}   {verdicts}"
        )
    return 0


if __name__ == "__main__":
    run_command(main)
