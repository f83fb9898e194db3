"""Calibration: which effects a sweep on this machine can detect.

    python -m raybench.calibrate space=cnns [isolation=both] [key=value ...] [--json]

Runs the baseline against itself (A/A) through the same trials, legs and ledger as a sweep, and also without each of its
instruments. The results are printed and kept beside the ledger, where `python -m raybench.plan` uses them.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("calibrate")

import json
import shlex

from rich.console import Console
from rich.markup import escape

from raybench.calibration.calibration import read_calibration
from raybench.cli import parse_arguments, run_command
from raybench.declare.plan import Plan, build_plan, check_name, missing_space
from raybench.declare.protocol import INSTRUMENTS
from raybench.declare.space import Space, load_space
from raybench.errors import NothingMeasured, UserError
from raybench.ledger.dataset import Ledger
from raybench.redaction import without_secrets
from raybench.stores.storage import AnyPath, to_path

REPEATS = 6
SPACE = "calibration"  # the folder of the ledgers, and the experiment's name in MLflow


def main(argv: list[str]) -> int:
    """Calibrate. Returns 0; raises UserError for bad input, and what a sweep raises."""
    arguments = parse_arguments("calibrate", argv)
    values = {"repeats": str(REPEATS), **arguments.values}
    if "space" not in values:
        raise missing_space(values)
    if "sweep" in values:
        raise UserError("sweep=: a calibration is named after its space and what it measures; take sweep= out")
    both = values.get("isolation") == "both"
    if both:
        del values["isolation"]
    results = to_path(values.pop("results", "mlruns/ledger"))
    minutes = values.pop("wait", "20")
    large = "yes" in arguments.flags
    name, space = load_space(values.pop("space"), size=values.pop("size", ""), overrides=values, large=large)
    check_name("space", name)
    if both and space.isolation == "fresh":
        raise UserError("isolation=both compares with shared processes, and this space has isolation: fresh")
    command = without_secrets("python -m raybench.calibrate " + " ".join(shlex.quote(token) for token in argv))
    console = Console(stderr="json" in arguments.flags)

    from raybench.sweep import Request, check_complete, measure, seconds_to_wait

    wait_seconds = seconds_to_wait(minutes)
    unrun: list[str] = []

    def run(plan: Plan, space: Space) -> AnyPath:
        folder = (results / SPACE / plan.sweep).absolute()
        lines, _ = measure(Request(plan, space, folder, command, wait_seconds=wait_seconds), console)
        for line in lines:
            console.print(f"[red]not run[/]: {escape(line)}", soft_wrap=True)
        unrun.extend(lines)
        if not any(row["status"] == "ok" for row in Ledger(folder).rows(["leg_id", "status"])):
            raise NothingMeasured(f"nothing could be measured; the ledger says why: {folder}")
        return folder

    plan = calibration_plan(name, space)
    folder = run(plan, shared_space(space))
    fresh = run(isolated_plan(plan, space), isolated_space(space)) if both else None
    num_trials = len(plan.trials) * (2 if both else 1)
    calibration = read_calibration(
        folder, space=name, baseline=space.baseline, again=_again(space), instruments=_without(space),
        num_arms=len(space.arms), rounds=space.protocol.rounds, fresh=fresh,
    )  # fmt: skip
    path = calibration.write(folder)
    if "json" in arguments.flags:
        print(json.dumps(calibration.to_json(), allow_nan=False, indent=1))
    else:
        from raybench.show.noise import build
        from raybench.show.terminal import print_document

        print_document(build(calibration), console, full=True)
        console.print(f"\nkept in {path}; python -m raybench.plan on this machine uses it", soft_wrap=True)
    check_complete(unrun, num_trials, command)
    return 0


def _again(space: Space) -> str:
    return f"{space.baseline}_again"


def _without(space: Space) -> dict[str, str]:
    """Each instrument that the protocol switches on, with the name of the arm without it."""
    on = [name for name in INSTRUMENTS if getattr(space.protocol, name, False)]
    return {name: f"{space.baseline}_without_{name}" for name in on}


def shared_space(space: Space) -> Space:
    """The A/A space: the baseline, the same under another name, and the same again for each instrument.

    Its number of trials is fixed: stopping settings once they scatter little would underestimate the scatter.
    """
    names = [space.baseline, _again(space), *_without(space).values()]
    arms = dict.fromkeys(names, space.arms[space.baseline])
    return space.model_copy(update={"arms": arms, "chain": False, "explain": False, "repeats": space.most_repeats})


def isolated_space(space: Space) -> Space:
    """Only the baseline against itself, with separate processes for each leg."""
    arms = dict.fromkeys([space.baseline, _again(space)], space.arms[space.baseline])
    return shared_space(space).model_copy(update={"arms": arms, "isolation": "fresh"})


def calibration_plan(name: str, space: Space) -> Plan:
    """The A/A plan of a space, with each instrument switched off in the legs of its arm."""
    aa = shared_space(space)
    plan = build_plan(SPACE, aa)
    plan = plan.model_copy(update={"sweep": f"{name}-{plan.sweep}"})
    return _with_protocols(plan, space, {arm: instrument for instrument, arm in _without(space).items()})


def isolated_plan(shared: Plan, space: Space) -> Plan:
    """The A/A trials again, with separate processes for each leg, in a separate ledger."""
    return build_plan(SPACE, isolated_space(space), f"{shared.sweep}-fresh")


def _with_protocols(plan: Plan, space: Space, off: dict[str, str]) -> Plan:
    """The plan with the instrument that `off` names for an arm switched off in that arm's legs."""
    protocols = {arm: space.protocol.model_copy(update={name: False}) for arm, name in off.items()}
    trials = [
        trial.model_copy(
            update={
                "legs": tuple(
                    leg.model_copy(update={"protocol": protocols.get(leg.arm_name)}) for leg in trial.legs
                )
            }
        )
        for trial in plan.trials
    ]  # fmt: skip
    return plan.model_copy(update={"trials": tuple(trials)})


if __name__ == "__main__":
    from raybench.calibrate import main as _main

    run_command(_main)
