"""The plan as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raybench.cluster.placement import find_cluster
from raybench.declare.arms import DeepSpeedArm
from raybench.declare.audit import declared_options, differences
from raybench.declare.deepspeed_config import resolve
from raybench.declare.plan import Leg, Plan, Trial
from raybench.declare.protocol import Protocol, Train
from raybench.declare.setting import Setting
from raybench.declare.small_images import in_words
from raybench.declare.space import Space
from raybench.detection import detection
from raybench.durations import Estimate, estimate
from raybench.stores.storage import AnyPath

MOST_ROWS = 60


def print_plan(
    plan: Plan, space: Space, results: AnyPath, price: float | None = None, console: Console | None = None
) -> None:
    """Print what a sweep would run, where, for how long, at what cost, and what it could detect.

    `results` is where earlier ledgers and calibrations are looked for; `price` is that of a node and hour. Raises
    UserError for a calibration that cannot be read.
    """
    console = console or Console()
    trials, legs = plan.trials, plan.legs()
    settings = {trial.setting_id: trial for trial in trials}
    console.print(
        f"space [bold]{plan.space}[/], sweep [bold]{plan.sweep}[/]: {len(settings)} settings x {len(space.arms)} arms, "
        f"{space.repeats_in_words()} each: {len(trials)} trials, {len(legs)} legs. Nothing is run.\n"
    )
    console.print(_settings_table(list(settings.values())))
    by_name = {leg.arm_name: leg for leg in trials[0].legs}
    first = {name: by_name[name] for name in space.arms}
    console.print(_arms_table(space, first))
    lines = [*_fitted_to_images(trial.setting for trial in settings.values())]
    lines += [*_declared_differences(plan, list(space.arms)), *_added_to_deepspeed(first)]
    lines.append(f"each leg: {_leg_in_words(space.protocol, len(legs))}")
    lines.append(f"order of the first trial: {' '.join(leg.arm_name for leg in trials[0].legs)}")
    there = find_cluster()
    lines.append(f"where: {there.in_words(plan)}")
    expected = estimate(plan, results, elsewhere=there.is_elsewhere)
    lines.append(f"time: {expected.in_words(there.slots)}")
    if price is not None:
        lines.append(f"cost: {cost_in_words(expected, price)}")
    lines.append(f"detects: {detection(plan, space, results).sentence()}")
    for line in lines:
        head, colon, rest = line.partition(": ")
        console.print(Text.assemble((head + colon, "bold"), rest))


def outlook(plan: Plan, space: Space, results: AnyPath, price: float | None) -> dict[str, Any]:
    """What `--json` says beside the plan: where it would run, the time, the cost, and what it could detect."""
    there = find_cluster()
    expected = estimate(plan, results, elsewhere=there.is_elsewhere)
    seconds = expected.seconds if expected.num_known else None
    detected = detection(plan, space, results)
    return {
        "where": there.in_words(plan),
        "slots": there.slots,
        "machine_seconds": seconds,
        "legs_with_known_time": expected.num_known,
        "time_from": expected.source,
        "price_of_a_node_hour": price,
        "cost": None if price is None or seconds is None else seconds / 3600 * price,
        "detects": detected.sentence(),
        "detection": asdict(detected),
    }


def cost_in_words(expected: Estimate, price: float) -> str:
    """What the machine time costs: a trial takes nodes of its own, so slots change the clock and not the cost."""
    if not expected.num_known:
        return f"not known, as the time is not; a node costs {price:g} an hour"
    least = "about" if expected.is_whole else "at least"
    cost = expected.seconds / 3600 * price
    return f"{least} {cost:.2f}, at {price:g} an hour and node; what a node costs while it starts or idles is not in it"


def _settings_table(settings: list[Trial]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("setting", "family", "sample", "batch a rank", "workers", "optimizer"):
        table.add_column(name, overflow="fold", justify="right" if name in ("batch a rank", "workers") else "left")
    for trial in settings[:MOST_ROWS]:
        s = trial.setting
        micro = "the largest" if s.batch_size == "max" else str(s.micro_batch)
        micro += f" x {s.accumulation}" if s.accumulation > 1 else ""
        optimizer = f"{s.optimizer.name} lr {s.optimizer.lr:g}"
        size = s.sample_in_words()
        table.add_row(escape(trial.label), trial.family, size, micro, str(s.workers), optimizer)
    if len(settings) > MOST_ROWS:
        table.add_row(f"... and {len(settings) - MOST_ROWS} more; --json gives all")
    return table


def _arms_table(space: Space, first: Mapping[str, Leg]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("arm", "engine", "configuration"):
        table.add_column(name, overflow="fold")
    for name, arm in space.arms.items():
        shown = escape(name) + (" (baseline)" if name == space.baseline else "")
        table.add_row(shown, arm.engine, escape(_configuration(first[name])))
    return table


def _leg_in_words(protocol: Protocol, num_legs: int) -> str:
    """What a leg does under the protocol, and how much that makes in all."""
    if isinstance(protocol, Train):
        early = protocol.target_accuracy is not None and protocol.stop_at_target
        until = f", or until an accuracy of {protocol.target_accuracy:g}" if early else ""
        if protocol.target_loss is not None and protocol.stop_at_target:
            until += f", or until a loss of {protocol.target_loss:g}"
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


def _fitted_to_images(settings: Iterable[Setting]) -> Iterator[str]:
    """What is done to each model for the sake of small images, with the models that it is done to."""
    models: dict[str, list[str]] = {}
    for s in settings:
        if s.image_size is not None and (words := in_words(s.model, s.small_images, s.image_size)):
            models.setdefault(f"small_images {s.small_images}: {words}", []).append(s.model)
    for what, names in models.items():
        yield f"{what} ({', '.join(dict.fromkeys(names))})"


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
        yield f"{name} also differs, as declared: in {what}{where}"


def _added_to_deepspeed(legs: Mapping[str, Leg]) -> Iterator[str]:
    """What raybench adds to DeepSpeed configs in the first setting, each addition with the arms that get it."""
    arms: dict[str, list[str]] = {}
    for name, leg in legs.items():
        if isinstance(leg.arm, DeepSpeedArm):
            for key, value in resolve(leg.arm, leg.setting).added.items():
                arms.setdefault(f"{key}: {json.dumps(value)}", []).append(name)
    number = sum(isinstance(leg.arm, DeepSpeedArm) for leg in legs.values())
    common = [text for text, names in arms.items() if len(names) == number]
    if common:
        yield f"added to every DeepSpeed config (first setting): {', '.join(common)}"
    for text, names in arms.items():
        if len(names) < number:
            yield f"added to that of {', '.join(names)}: {text}"
    for name, leg in legs.items():
        if isinstance(leg.arm, DeepSpeedArm):
            yield from (f"{name}: {note}" for note in resolve(leg.arm, leg.setting).notes)
