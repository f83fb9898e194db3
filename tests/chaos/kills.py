"""A real sweep killed at random moments and resumed, time after time, the ledger compared to the plan each time.

    python -m tests.chaos.kills [seed=1] [times=20] [folder=mlruns/kills]

Real engines, real Ray, no test around it: for the half hour in which one wants to be sure. A moment is any, the start
of Ray and the last report included; what is struck is the driver, by one of the signals, or a process beside it and
some seconds later the driver. A sweep that is complete is checked and another one begun. Ends at the first thing that
does not hold, with the seed.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from raybench.cli import parse_script
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from tests.chaos import checks
from tests.chaos.processes import TITLES, kill_one
from tests.chaos.stage import Stage

CHANGES = {"setting.model": "lenet", "repeats": "4", "protocol.warmup_steps": "2", "protocol.steps": "60"}
_LONGEST_SECONDS = 60.0  # before a strike: about as long as the first of two trials


def main(argv: list[str]) -> int:
    """Kill and resume. Returns 0 when everything held."""
    values = parse_script(__doc__ or "", {"seed": 1, "times": 20, "folder": "mlruns/kills"}, argv)
    seed, times = values["seed"], values["times"]
    folder = Path(values["folder"]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"kills {seed}")
    number = done = 0
    stage, plan = _stage(folder, seed, number)
    while done < times:
        told = _struck_run(stage, chance)
        done += 1
        rows = checks.check_so_far(stage.ledger, plan)
        print(f"{done} of {times}: {told}; {len(rows)} of {len(plan.legs())} legs", flush=True)
        if len(rows) == len(plan.legs()):
            _complete(stage, plan)
            number += 1
            stage, plan = _stage(folder, seed, number)
    _complete(stage, plan)
    print(f"{times} kills, {number + 1} sweeps complete, seed {seed}")
    return 0


def _stage(folder: Path, seed: int, number: int) -> tuple[Stage, Plan]:
    name = f"seed{seed}-{number}"
    arguments = ["space=quickstart", *(f"{key}={value}" for key, value in CHANGES.items())]
    plan = build_plan(*load_space("quickstart", CHANGES), sweep=name)
    (folder / name).mkdir(exist_ok=True)
    return Stage(folder / name, "raybench.sweep", "quickstart", name, len(plan.legs()), arguments), plan


def _struck_run(stage: Stage, chance: random.Random) -> str:
    """The command once, struck at a random moment. Returns what was done."""
    mark = uuid.uuid4().hex
    output = stage.folder / f"{mark[:8]}.txt"
    seconds, kind = chance.uniform(0.0, _LONGEST_SECONDS), chance.choice([*TITLES, "", ""])
    end = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    with output.open("w") as log:
        driver = subprocess.Popen(
            stage.command(), cwd=stage.folder, stdout=log, stderr=subprocess.STDOUT,
            env=stage.environment("own", mark),
        )  # fmt: skip
    try:
        time.sleep(seconds)
        told = f"after {seconds:.1f} s"
        if kind:
            told += f", {kill_one([mark], kind, chance, lambda: driver.poll() is None) or 'nothing to strike'}"
            time.sleep(chance.uniform(0.0, 15.0))
        if driver.poll() is None:
            driver.send_signal(end)
            told += f", {end.name}"
        code = driver.wait(timeout=600)
    finally:
        driver.kill()
    stage.assert_no_process_of(mark)
    said = output.read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
    traceback = [line for line in said if "Traceback" in line]
    assert not traceback or "KeyboardInterrupt" in said[-1], output  # Python's own, before there is a handler
    assert code in (0, 1, 130, 143, -end), output
    return f"{told}: exit code {code}, {said[-1][:120]}"


def _complete(stage: Stage, plan: Plan) -> None:
    """Run what is missing in peace, and check everything."""
    done = subprocess.run(
        stage.command(), cwd=stage.folder, env=stage.environment("own", uuid.uuid4().hex),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = checks.check_complete(stage.ledger, plan)
    stage.check_tracking(rows)
    stage.check_verified()
    stage.assert_nothing_is_left()
    checks.check_nothing_is_left(stage.ledger)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
