"""The plan as a person reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from raybench.analysis.inference import t_quantile
from raybench.arms import DeepSpeedArm, added_config
from raybench.audit import declared_options, differences
from raybench.plan import Leg, Plan
from raybench.protocol import Protocol, Train
from raybench.space import Space

# Standard deviation of one trial's log ratio between neighbouring legs of one process, as found on an idle 2-core
# machine; another machine has another, and only a measurement tells.
ASSUMED_SD = 0.018


def print_plan(plan: Plan, space: Space, console: Console | None = None) -> None:
    """Print settings, arms, the order of legs, how much there is to run and what it could detect."""
    console = console or Console()
    trials, legs = plan.trials, plan.legs()
    settings = {trial.setting_id: trial for trial in trials}
    console.print(
        f"space [bold]{plan.space}[/], sweep [bold]{plan.sweep}[/]: {len(settings)} settings x {len(space.arms)} arms, "
        f"{space.repeats} trials each: {len(trials)} trials, {len(legs)} legs. Nothing is run."
    )
    table = Table(
        "setting", "family", "image", "batch a rank", "workers", "optimizer", title="settings", title_justify="left"
    )
    for trial in settings.values():
        s = trial.setting
        micro = f"{s.micro_batch}" + (f" x {s.accumulation}" if s.accumulation > 1 else "")
        table.add_row(
            trial.label,
            trial.family,
            f"{s.image_size}x{s.image_size}",
            micro,
            str(s.workers),
            f"{s.optimizer.name} lr {s.optimizer.lr:g}",
        )
    console.print(table)
    arms = Table("arm", "engine", "configuration", title="arms", title_justify="left")
    by_name = {leg.arm_name: leg for leg in trials[0].legs}
    first = {name: by_name[name] for name in space.arms}
    for name, arm in space.arms.items():
        arms.add_row(name + (" (baseline)" if name == space.baseline else ""), arm.engine, _configuration(first[name]))
    console.print(arms)
    for line in [*_declared_differences(plan, list(space.arms)), *_added_to_deepspeed(first)]:
        console.print(line)
    console.print(
        f"each leg: {_leg_in_words(space.protocol, len(legs))} How long a step takes is not known before it is "
        f"measured; starting the processes of a trial takes about 20 s on a laptop, so {len(trials) * 20 / 60:.0f} min "
        "of that."
    )
    console.print(f"order of the first trial: {' '.join(leg.arm_name for leg in trials[0].legs)}")
    console.print(what_it_detects(space))


def _leg_in_words(protocol: Protocol, num_legs: int) -> str:
    """What a leg does under the protocol, and how much that makes in all."""
    if isinstance(protocol, Train):
        early = protocol.target_accuracy is not None and protocol.stop_at_target
        until = f", or until an accuracy of {protocol.target_accuracy:g}" if early else ""
        every = f"every {protocol.evaluate_every} epochs" if protocol.evaluate_every > 1 else "every epoch"
        return (
            f"{protocol.epochs} epochs{until}, evaluated after {every}; {protocol.rounds} rounds; at most "
            f"{protocol.epochs * num_legs:,} epochs in all."
        )
    steps = protocol.warmup_steps + protocol.steps
    return (
        f"{protocol.warmup_steps} warm-up steps, {protocol.steps} measured; {protocol.rounds} rounds; "
        f"{steps * num_legs:,} steps in all."
    )


def _configuration(leg: Leg) -> str:
    """What an arm asks for beyond its engine's defaults."""
    config = leg.arm.model_dump(mode="json", exclude={"engine"}, exclude_defaults=True)
    return ", ".join(f"{key}: {value}" for key, value in config.items()) or "as it comes"


def _declared_differences(plan: Plan, arms: list[str]) -> Iterator[str]:
    """One line for each arm that is not trained as the baseline is, with all that the space declares of it."""
    found: dict[tuple[str, str], int] = {}
    trials = {trial.setting_id: trial for trial in plan.trials}
    for trial in trials.values():
        base = next(leg for leg in trial.legs if leg.is_baseline)
        for leg in {leg.arm_name: leg for leg in trial.legs}.values():
            found_here = differences(declared_options(leg.arm, leg.setting), declared_options(base.arm, base.setting))
            if found_here:
                key = leg.arm_name, "; ".join(map(str, found_here))
                found[key] = found.get(key, 0) + 1
    for (name, what), count in sorted(found.items(), key=lambda item: arms.index(item[0][0])):
        where = "" if count == len(trials) else f" (in {count} of {len(trials)} settings)"
        yield f"{name} also differs, as declared, in {what}{where}"


def _added_to_deepspeed(legs: Mapping[str, Leg]) -> Iterator[str]:
    """What raybench adds to DeepSpeed configs in the first setting, each addition with the arms that get it."""
    arms: dict[str, list[str]] = {}
    for name, leg in legs.items():
        if isinstance(leg.arm, DeepSpeedArm):
            for key, value in added_config(leg.arm, leg.setting).items():
                arms.setdefault(f"{key}: {json.dumps(value)}", []).append(name)
    number = sum(isinstance(leg.arm, DeepSpeedArm) for leg in legs.values())
    common = [text for text, names in arms.items() if len(names) == number]
    if common:
        yield f"added to every DeepSpeed config (first setting): {', '.join(common)}"
    for text, names in arms.items():
        if len(names) < number:
            yield f"added to that of {', '.join(names)}: {text}"


def half_width(trials: int, alpha: float, sd: float = ASSUMED_SD) -> float:
    """Half the width of the paired t interval of the speedup (a ratio minus 1) with `trials` trials."""
    return math.expm1(float(t_quantile(trials, alpha / 2)) * sd / math.sqrt(trials))


def what_it_detects(space: Space) -> str:
    """One sentence on the smallest effect that this number of trials can show."""
    if space.repeats < 2:
        return "one trial a setting gives no interval: every verdict will be undecided; repeats=5 or more can decide"
    width = half_width(space.repeats, space.question.alpha)
    level = 1 - space.question.alpha
    return (
        f"with {space.repeats} trials a {level:.0%} interval reaches about {width:.1%} to each side where a trial's "
        f"log ratio scatters by {ASSUMED_SD:.1%} (an assumption: this machine's scatter is not measured); "
        f"the margin is {space.question.margin:.0%}"
    )
