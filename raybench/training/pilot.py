"""The pilot of `steps: auto`: a leg of a setting's baseline from which its number of measured steps is chosen.

It is used for nothing else and leaves no row. `raybench.statistics.num_steps` computes the number. The keeper of the
ledger makes the final choice (`choose`), so that all trials of a setting measure the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import StepChoice, Throughput
from raybench.ledger.outcome import Failure, Outcome
from raybench.statistics.num_steps import Pilot
from raybench.training.ranks import Ranks

Choose = Callable[[str, Pilot | None], StepChoice | None]  # as `StepChoices.of`


def asks_for_steps(trial: Trial) -> bool:
    """Whether the trial's number of steps is to be chosen."""
    return isinstance(trial.protocol, Throughput) and trial.protocol.steps == "auto"


def with_steps(trial: Trial, choice: StepChoice | None) -> Trial:
    """The trial with the chosen number of steps, where its protocol leaves it open."""
    return _with_protocol(trial, steps=choice.steps) if choice and asks_for_steps(trial) else trial


def choose_steps(
    trial: Trial, ranks: Ranks, begin: Callable[[Leg], bool], run: Callable[[Trial, Leg], Outcome], choose: Choose
) -> StepChoice | None:
    """The choice of steps for the trial's setting, after a pilot if there is none yet; the same on every rank. None
    where `begin` says that no leg may begin.

    A pilot that ends its processes counts as a failure of the baseline's leg.
    """
    known = choose(trial.setting_id, None) if ranks.rank == 0 else None
    choice: StepChoice | None = ranks.gather(known)[0]
    if choice is not None:
        return choice
    leg = next(leg for leg in trial.legs if leg.is_baseline)
    if not begin(leg):
        return None
    pilot = _pilot(run(_with_protocol(trial, phases=False, telemetry=False, evaluate=False), leg))
    choice = ranks.gather(choose(trial.setting_id, pilot) if ranks.rank == 0 else None)[0]
    return choice


def _with_protocol(trial: Trial, **changes: Any) -> Trial:
    return trial.model_copy(update={"protocol": trial.protocol.model_copy(update=changes)})


def _pilot(outcome: Outcome) -> Pilot:
    if isinstance(outcome, Failure):
        return Pilot((), problem=f"the baseline's pilot failed: {outcome.message}")
    steps = outcome.step_seconds[outcome.warmup_steps :]
    return Pilot(tuple(steps), outcome.setup_seconds + outcome.warmup_steps * sum(steps) / len(steps))
