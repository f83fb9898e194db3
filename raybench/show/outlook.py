"""A plan for people: whether it fits and how long it takes, then what would run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from raybench.calibration.detection import detection
from raybench.calibration.durations import Estimate, estimate
from raybench.cluster.placement import Place, find_cluster
from raybench.declare.arms import DeepSpeedArm
from raybench.declare.audit import declared_options, differences
from raybench.declare.deepspeed_config import resolve
from raybench.declare.memory_need import Need, needs
from raybench.declare.plan import Leg, Plan, Trial
from raybench.declare.protocol import Protocol, Train
from raybench.declare.setting import Setting
from raybench.declare.small_images import in_words
from raybench.declare.space import Space
from raybench.machine.gpus import gpu_bytes
from raybench.show import units
from raybench.show.document import Block, Document, Items, Paragraph, Section, Table, columns, row
from raybench.statistics.num_steps import LEAST, MOST
from raybench.stores.storage import AnyPath

MOST_VALUES: Final = 12  # values shown of an axis
_MOST_UNFIT: Final = 3  # settings named in the answer
_BY_TRIAL: Final = ("seed",)  # fields of a setting that are not axes
# Keys that raybench sets in every DeepSpeed config to keep timers, logs and checks out of the measured time.
_HOUSEKEEPING: Final = (
    "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "timers",
    "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "train_batch_size",
    "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
)  # fmt: skip


def build(plan: Plan, space: Space, results: AnyPath, price: float | None = None) -> Document:
    """A plan's document: whether it fits, duration, cost, what it could detect, and what it runs.

    `results` is the folder of earlier ledgers and calibrations; `price` is per node and hour. Raises UserError for an
    unreadable calibration.
    """
    trials = list({trial.setting_id: trial for trial in plan.trials}.values())
    there = find_cluster()
    expected = estimate(plan, results, elsewhere=there.is_elsewhere)
    answer: list[Block] = [
        Paragraph(_counts(plan, space, len(trials)), lead=f"{plan.space}:"),
        _fits(there, plan),
        Paragraph(time_in_words(expected, there.slots), lead="Time:"),
    ]
    if price is not None:
        answer.append(Paragraph(cost_in_words(expected, price), lead="Cost:"))
    answer.append(Paragraph(detection(plan, space, results).sentence(), lead="Detects:"))
    in_order = sorted(needs(plan, gpu_bytes()), key=lambda need: list(space.arms).index(need.arm))
    memory, unfit = _memory(in_order)
    answer += [Paragraph(text, lead="Memory:") for text in unfit]
    by_name = {leg.arm_name: leg for leg in plan.trials[0].legs}
    first = {name: by_name[name] for name in space.arms}
    sections = (
        Section("settings", "Settings", tuple(_settings(trials))),
        Section("arms", "Arms", tuple(_arms(plan, space, first))),
        *([Section("memory", "Memory of a worker, as predicted", (Items("", memory),))] if memory else []),
        Section("legs", "Legs", tuple(Paragraph(text) for text in _legs_in_words(plan, space))),
    )
    return Document(f"{plan.space}, {plan.sweep}", tuple(answer), sections)


def _counts(plan: Plan, space: Space, num_settings: int) -> str:
    settings, arms = units.count(num_settings, "setting"), units.count(len(space.arms), "arm")
    profiled = sum(leg.profiled for _, leg in plan.legs())
    all_of_it = f"{units.count(len(plan.trials), 'trial')}, {units.count(len(plan.legs()) - profiled, 'leg')}"
    more = f", and {units.count(profiled, 'profiled leg')} to explain them" if profiled else ""
    return f"{settings} x {arms}, {space.repeats_in_words()} each: {all_of_it}{more}. Nothing is run."


def _memory(found: list[Need]) -> tuple[tuple[str, ...], list[str]]:
    """(predicted need of each setting, what will not fit); a reader must see the latter first."""
    lines, unfit = [], []
    for setting in dict.fromkeys(need.setting for need in found):
        own = [need for need in found if need.setting == setting]
        least, most = (pick(own, key=lambda need: need.device_bytes) for pick in (min, max))
        ends = [f"{units.size(need.device_bytes)} ({need.arm})" for need in (least, most)]
        lines.append(f"{setting}: {' to '.join(ends)}")
        too_much = [need.arm for need in own if not need.fits]
        if too_much and own[0].limit:
            unfit.append(f"{', '.join(too_much)} will not fit {setting} into {units.size(own[0].limit)}")
    left = len(unfit) - _MOST_UNFIT
    return tuple(lines), [*unfit[:_MOST_UNFIT], *([f"the same in {left} more settings"] if left > 0 else [])]


def _fits(there: Place, plan: Plan) -> Paragraph:
    told = there.in_words(plan)
    problem = told.removeprefix("it does not fit: ")
    if there.cluster is None:
        return Paragraph(told, lead="Where:")
    return Paragraph(
        problem, lead="Fits:" if problem == told else "Does not fit:", verdict="" if problem == told else "hurts"
    )


def time_in_words(expected: Estimate, slots: int = 1) -> str:
    """How long a plan takes; with several slots also the elapsed time."""
    if not expected.num_known:
        return f"not known until legs like these or raybench.calibrate ran here ({expected.source})"
    least = "about" if expected.is_whole else "at least"
    clock = f", {units.duration(expected.seconds / slots)} on {slots} slots" if slots > 1 else ""
    part = (
        ""
        if expected.is_whole
        else f" for {expected.num_known} of its {expected.num_legs} legs; the others are not known"
    )
    return f"{least} {units.duration(expected.seconds)} of machine time{clock}{part} ({expected.source})"


def outlook(plan: Plan, space: Space, results: AnyPath, price: float | None) -> dict[str, Any]:
    """The additions of `--json` to the plan: where it would run, time, cost, and what it could detect."""
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
        "memory": [asdict(need) | {"fits": need.fits} for need in needs(plan, gpu_bytes())],
    }


def cost_in_words(expected: Estimate, price: float) -> str:
    """The cost of the machine time: a trial takes whole nodes, so slots change the elapsed time but not the cost."""
    if not expected.num_known:
        return f"not known, because the time is not known; a node costs {price:g} an hour"
    least = "about" if expected.is_whole else "at least"
    cost = expected.seconds / 3600 * price
    outside = "what a node costs while it starts or idles is not in it"
    return f"{least} {units.money(cost)}, at {price:g} an hour and node; {outside}"


def _settings(trials: Sequence[Trial]) -> Iterator[Block]:
    """The axes, one line each, and what all settings have in common; never their product."""
    fields = {name: [_value(getattr(trial.setting, name)) for trial in trials] for name in _fields(trials)}
    axes = {name: list(dict.fromkeys(values)) for name, values in fields.items() if len(set(values)) > 1}
    same = [f"{name.replace('_', ' ')} {values[0]}" for name, values in fields.items() if len(set(values)) == 1]
    rows = [row(name.replace("_", " "), str(len(values)), _listed(values)) for name, values in axes.items()]
    if rows:
        product = 1
        for values in axes.values():
            product *= len(values)
        note = "" if product == len(trials) else f"Of their {product:,} combinations {len(trials):,} are settings."
        names = columns("axis", "values", "", numbers=("values",), folds=("",))
        yield Table("axes", "", names, tuple(rows), note=note)
    yield Paragraph(f"{', '.join(same)}.", lead="In all settings:" if rows else "The setting:")
    fitted = tuple(_fitted_to_images(trial.setting for trial in trials))
    if fitted:
        yield Items("", fitted)


def _fields(trials: Sequence[Trial]) -> list[str]:
    """The fields of a setting to show: those that differ from their defaults, and some always."""
    setting = trials[0].setting
    always = ("model", "dataset", "batch_size", "workers", "precision", "optimizer")
    return [
        name
        for name, field in type(setting).model_fields.items()
        if name not in _BY_TRIAL
        and (
            name in always
            or any(getattr(trial.setting, name) != field.get_default(call_default_factory=True) for trial in trials)
        )
    ]


def _value(value: Any) -> str:
    """A value as in a space file, without a program's quotes."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_defaults=True) | {"name": getattr(value, "name", "")}
    if isinstance(value, dict):
        named = [str(value["name"])] if value.get("name") else []
        return " ".join([*named, *(f"{key} {_value(item)}" for key, item in value.items() if key != "name")]) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(values: Sequence[str]) -> str:
    more = len(values) - MOST_VALUES
    return ", ".join(values[:MOST_VALUES]) + (f" and {more} more" if more > 0 else "")


def _arms(plan: Plan, space: Space, first: Mapping[str, Leg]) -> Iterator[Block]:
    rows = [
        row(name + (" (baseline)" if name == space.baseline else ""), arm.engine, _configuration(first[name]))
        for name, arm in space.arms.items()
    ]
    yield Table(
        "arms", "", columns("arm", "engine", "what is asked of it", folds=("what is asked of it",)), tuple(rows)
    )
    notes = (*_declared_differences(plan, list(space.arms)), *_added_to_deepspeed(first))
    if notes:
        yield Items("", notes)


def _configuration(leg: Leg) -> str:
    """An arm's options beyond its engine's defaults, as in a space file."""
    config = leg.arm.model_dump(mode="json", exclude={"engine"}, exclude_defaults=True)
    return ", ".join(f"{key}: {_yaml(value)}" for key, value in config.items()) or "as it comes"


def _yaml(value: Any) -> str:
    """A value in YAML's one-line form."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _legs_in_words(plan: Plan, space: Space) -> Iterator[str]:
    """What the measured legs do, and the profiled ones."""
    profiled = [leg for _, leg in plan.legs() if leg.profiled]
    yield _leg_in_words(space.protocol, len(plan.legs()) - len(profiled))
    if profiled:
        yield (
            f"{units.count(len(profiled), 'profiled leg')}, one of each arm in each setting after its first trial's "
            "others: where a step's time goes. They count in no speedup."
        )


def _leg_in_words(protocol: Protocol, num_legs: int) -> str:
    """What a leg does under the protocol, and the total."""
    if isinstance(protocol, Train):
        early = protocol.target_accuracy is not None and protocol.stop_at_target
        until = f", or until an accuracy of {protocol.target_accuracy:g}" if early else ""
        if protocol.target_loss is not None and protocol.stop_at_target:
            until += f", or until a loss of {protocol.target_loss:g}"
        every = f"every {protocol.evaluate_every} epochs" if protocol.evaluate_every > 1 else "every epoch"
        return (
            f"{protocol.epochs} epochs{until}, evaluated after {every}; {units.count(protocol.rounds, 'round')}; "
            f"at most {protocol.epochs * num_legs:,} epochs in all."
        )
    if protocol.steps == "auto":
        return (
            f"{protocol.warmup_steps} warm-up steps, then {LEAST} to {MOST} measured: a short leg of a setting's "
            "baseline, run first and not counted, chooses the number for all of its legs; "
            f"{protocol.rounds} rounds."
        )
    steps = protocol.warmup_steps + protocol.steps
    return (
        f"{protocol.warmup_steps} warm-up steps, {protocol.steps} measured; {units.count(protocol.rounds, 'round')}; "
        f"{steps * num_legs:,} steps in all."
    )


def _fitted_to_images(settings: Iterable[Setting]) -> Iterator[str]:
    """Changes made to models for small images, with the models that get them."""
    models: dict[str, list[str]] = {}
    for s in settings:
        if s.image_size is not None and (words := in_words(s.model, s.small_images, s.image_size)):
            models.setdefault(f"small_images {s.small_images}: {words}", []).append(s.model)
    for what, names in models.items():
        yield f"{what} ({', '.join(dict.fromkeys(names))})"


def _declared_differences(plan: Plan, arms: list[str]) -> Iterator[str]:
    """One line for each arm whose training differs from the baseline's, with all differences the space declares."""
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
    """DeepSpeed keys set by raybench that change the training, with the arms that get them; then its notes."""
    resolved = {name: resolve(leg.arm, leg.setting) for name, leg in legs.items() if isinstance(leg.arm, DeepSpeedArm)}
    arms: dict[str, list[str]] = {}
    for name, one in resolved.items():
        added = [f"{key}: {_yaml(value)}" for key, value in one.added.items() if key not in _HOUSEKEEPING]
        arms.setdefault(", ".join(added), []).append(name)
    for text, names in arms.items():
        whose = "every DeepSpeed config" if len(names) == len(resolved) else f"the config of {', '.join(names)}"
        yield f"raybench sets in {whose}: {f'{text}, ' if text else ''}batches, and timers off; --json has all"
    yield from (f"{name}: {note}" for name, one in resolved.items() for note in one.notes)
