"""The input of `torchrun -m raybench.training`: a plan on disk, the chosen trials, and their ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from raybench.declare.plan import Plan, Trial
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger, held_legs


@dataclass(frozen=True)
class Work:
    """A plan, the chosen trials, and where their rows go."""

    plan: Plan
    trials: Sequence[Trial]
    ledger: Ledger


def read_work(file: str, values: Mapping[str, str]) -> Work:
    """The work named by a plan's file and `ledger`, `repeat` or `trial`. Raises UserError for invalid values."""
    plan = _read_plan(Path(file))
    ledger = Ledger(Path(values.get("ledger", f"mlruns/ledger/{plan.space}/{plan.sweep}")))
    places = ledger.rows(["setting_id", "repeat", "arm", "round", "leg_id", "is_baseline"])
    held_legs(plan, ledger.folder, places, "write to another folder with ledger=FOLDER")
    asking = sorted({leg.arm_name for _, leg in plan.legs() if leg.arm.packages})
    if asking:
        names = ", ".join(asking)
        raise UserError(f"{names}: arms with packages of their own need Ray to make their environments; run the sweep")
    return Work(plan, _chosen(plan, values), ledger)


def _chosen(plan: Plan, values: Mapping[str, str]) -> Sequence[Trial]:
    """The trials that `trial=K` or `repeat=K` selects; all without either. Raises UserError for an unknown one."""
    if "trial" in values:
        number = values["trial"]
        if not number.isdigit() or int(number) >= len(plan.trials):
            raise UserError(f"trial={number}: the plan's trials are numbered 0 to {len(plan.trials) - 1}")
        return (plan.trials[int(number)],)
    if "repeat" not in values:
        return plan.trials
    chosen = [trial for trial in plan.trials if str(trial.repeat) == values["repeat"]]
    if not chosen:
        last = max(trial.repeat for trial in plan.trials)
        raise UserError(f"repeat={values['repeat']}: the plan's repeats are numbered 0 to {last}")
    return chosen


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
    except OSError as error:
        reason = str(error.strerror)
    raise UserError(f"{path}: not a plan that `python -m raybench.plan ... --json` wrote: {reason}") from None
