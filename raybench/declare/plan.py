"""The plan: every trial and its legs, explicit, in the order in which they run.

Ids are hashes of content: the same space gives the same ids everywhere, and resume needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from raybench.declare import catalog
from raybench.declare.arms import Arm, DeepSpeedArm, ScriptArm
from raybench.declare.deepspeed_config import resolve
from raybench.declare.identity import arm_identity
from raybench.declare.protocol import Protocol, Throughput, steps_or
from raybench.declare.setting import Setting
from raybench.declare.space import Question, Space, load_space
from raybench.errors import UserError
from raybench.text import dotted

PLAN_VERSION = 1
_STEPS_BESIDE_A_PROFILE = 20  # measured without the profiler in a profiled leg, at most


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Leg(_Frozen):
    """One arm's run inside a trial; `position` is its place in the trial's order, from 0."""

    leg_id: str
    arm_name: str
    arm: Arm
    is_baseline: bool
    setting: Setting  # the trial's, with this arm's declared differences
    round: int
    position: int
    chain: int | None = None  # the arm's place in its chain, from 0
    protocol: Protocol | None = None  # where it differs from the trial's: a calibration varies the instruments
    profiled: bool = False  # explains the arm's time, and counts in no speedup

    def with_micro_batch(self, micro_batch: int) -> Leg:
        """The leg with this batch, if its setting asks for the largest."""
        return self.model_copy(update={"setting": self.setting.with_micro_batch(micro_batch)})

    def arm_config(self) -> dict[str, Any]:
        """All options that the arm was asked to be built with; `chain` is its place in a chain of arms."""
        config = self.arm.model_dump(mode="json")
        if isinstance(self.arm, DeepSpeedArm):
            resolved = resolve(self.arm, self.setting)
            config["deepspeed_config"] = resolved.config
            if resolved.notes:
                config["deepspeed_notes"] = resolved.notes
        return config if self.chain is None else {**config, "chain": self.chain}


class Trial(_Frozen):
    """One setting x one repeat: a fresh set of processes, and the sample of the statistics."""

    trial_id: str
    setting_id: str
    label: str
    family: str
    setting: Setting
    repeat: int
    seed: int
    protocol: Protocol
    differs: tuple[str, ...]
    isolation: str
    slots_per_node: int = 1  # trials that may run on a node at a time
    leg_timeout_seconds: float
    legs: tuple[Leg, ...]

    @property
    def num_nodes_taken(self) -> float:
        """How many machines the trial occupies while it runs: several, or a fraction of a shared one."""
        return self.setting.nodes / self.slots_per_node

    def as_measured(self, leg: Leg) -> Trial:
        """The trial with the protocol that this leg follows."""
        return self if leg.protocol is None else self.model_copy(update={"protocol": leg.protocol})


class Plan(_Frozen):
    """What a sweep runs: its name, its space, and its trials in order."""

    plan_version: int = PLAN_VERSION
    space: str
    sweep: str
    question: Question
    trials: tuple[Trial, ...]
    outlook: dict[str, Any] | None = None  # time and cost for `--json`; no run reads it

    @field_validator("plan_version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version != PLAN_VERSION:
            raise ValueError(f"plan_version {version} is not known to this raybench, which reads {PLAN_VERSION}")
        return version

    def legs(self) -> list[tuple[Trial, Leg]]:
        """Every leg with its trial, in order."""
        return [(trial, leg) for trial in self.trials for leg in trial.legs]


def content_hash(*content: Any) -> str:
    """16 hexadecimal digits that identify a content: the SHA-256 of its canonical JSON.

    Models are hashed without fields at their defaults, so that a field added later changes no id.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_plan(name: str, space: Space, sweep: str = "") -> Plan:
    """All trials of a space, by repeat, so that every setting's trials are spread over the whole sweep.

    `sweep` names it. Without a name it gets a hash of what is measured (everything but the question and the number of
    repeats), so that the same command again is the same sweep.
    """
    values = list(space.settings())
    settings = [Setting.model_validate(fields) for fields in values]
    names = labels(settings, space.axes())
    cells = [_build_cell(space, *each) for each in zip(values, settings, names, strict=True)]
    trials = tuple(_build_trial(space, cell, repeat) for repeat in range(space.most_repeats) for cell in cells)
    measured = space.model_dump(
        mode="json", exclude={"question", "repeats", "leg_timeout_seconds", "explain"}, exclude_defaults=True
    )
    measured["arms"] = {name: _spelt_alike(name, cells) for name in space.arms}
    measured["setting"] = {key: value for key, value in measured["setting"].items() if key != "download"}
    return Plan(space=name, sweep=sweep or content_hash(measured)[:8], question=space.question, trials=trials)


@dataclass(frozen=True)
class _Cell:
    """A setting with its arms resolved in it; built once and shared by its repeats, which may be many."""

    setting: Setting
    setting_id: str
    label: str
    of_arm: Mapping[str, Setting]
    identities: Mapping[str, Mapping[str, Any]]  # of the arms, for naming their legs


def _build_cell(space: Space, values: Mapping[str, Any], setting: Setting, label: str) -> _Cell:
    of_arm = {
        name: Setting.model_validate({**values, **arm.setting}) if arm.setting else setting
        for name, arm in space.arms.items()
    }
    identities = {name: arm_identity(arm, of_arm[name]) for name, arm in space.arms.items()}
    return _Cell(setting, content_hash(setting.identity()), label, of_arm, identities)


def _spelt_alike(arm: str, cells: Sequence[_Cell]) -> Any:
    """What the arm is: one value for all settings, or one for each where it depends on the setting."""
    found = [cell.identities[arm] for cell in cells]
    return found[0] if all(one == found[0] for one in found) else found


def _build_trial(space: Space, cell: _Cell, repeat: int) -> Trial:
    protocol = space.protocol.model_dump(mode="json", exclude_defaults=True)
    # Default values are left out, so that options added later change no id.
    sharing = [space.slots_per_node] if space.slots_per_node > 1 else []
    trial_id = content_hash(cell.setting_id, repeat, space.seed, protocol, space.isolation, *sharing)
    rounds = space.protocol.rounds
    explained = space.explain and repeat == 0  # by one more round
    order = leg_order(list(space.arms), rounds + explained, space.seed, cell.setting_id, repeat)
    legs = tuple(
        Leg(
            leg_id=content_hash(trial_id, name, cell.identities[name], "profile" if round_ == rounds else round_),
            arm_name=name,
            arm=space.arms[name],
            is_baseline=name == space.baseline,
            setting=cell.of_arm[name],
            round=round_,
            position=position,
            chain=list(space.arms).index(name) if space.chain else None,
            protocol=_beside_a_profile(space.protocol) if round_ == rounds else None,
            profiled=round_ == rounds,
        )
        for position, (name, round_) in enumerate(order)
        if round_ < rounds or not isinstance(space.arms[name], ScriptArm)  # not profiled: the process is the user's
    )
    return Trial(
        trial_id=trial_id,
        setting_id=cell.setting_id,
        label=cell.label,
        family="script" if cell.setting.task == "script" else catalog.family(cell.setting.model),
        setting=cell.setting,
        repeat=repeat,
        seed=int(content_hash("seed", space.seed, cell.setting_id, repeat)[:8], 16) & 0x7FFFFFFF,
        protocol=space.protocol,
        differs=_differs(space, legs),
        isolation=space.isolation,
        slots_per_node=space.slots_per_node,
        leg_timeout_seconds=space.leg_timeout_seconds,
        legs=legs,
    )


def _beside_a_profile(protocol: Protocol) -> Throughput:
    """The steps of a profiled leg without its profiler, which show what the profiler costs."""
    steps = min(steps_or(protocol, _STEPS_BESIDE_A_PROFILE), _STEPS_BESIDE_A_PROFILE)
    return Throughput(
        warmup_steps=protocol.warmup_steps, steps=steps, rounds=1, phases=False, telemetry=protocol.telemetry,
    )  # fmt: skip


def _differs(space: Space, legs: tuple[Leg, ...]) -> tuple[str, ...]:
    """What the arms may differ in: also the batch if each takes its largest, and packages if they ask for any."""
    implied = {
        "batch_size": any(leg.setting.batch_size == "max" for leg in legs),
        "packages": any(leg.arm.packages for leg in legs),
    }
    return (*space.differs, *(name for name, given in implied.items() if given and name not in space.differs))


def leg_order(arms: list[str], rounds: int, seed: int, setting_id: str, repeat: int) -> list[tuple[str, int]]:
    """The counterbalanced order of a trial's legs, as (arm, round).

    The orders of a setting's repeats are a Williams design (1949). Over as many repeats as there are arms (twice as
    many for an odd number), every arm stands in every place, and follows every other arm equally often, so that what an
    arm leaves behind for the next can be separated from the arms themselves. The arms' places in the design are drawn
    for each setting from the sweep's seed. Repeats come in pairs, the second with the first's order reversed. Round 1
    is round 0 reversed, and so on, so that within a trial a linear drift cancels.
    """
    drawn = sorted(arms)
    random.Random(content_hash("order", seed, setting_id)).shuffle(drawn)
    pair, second = divmod(repeat, 2)
    # 0, 1, n - 1, 2, n - 2, ...: neighbours differ by each number once, so adding `pair` makes all pairs neighbours.
    design = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(len(drawn))]
    order = [drawn[(place + pair) % len(drawn)] for place in design]
    if second:
        order.reverse()
    return [(arm, round_) for round_ in range(rounds) for arm in (order if round_ % 2 == 0 else reversed(order))]


def labels(settings: list[Setting], axes: list[str]) -> list[str]:
    """A readable name for each setting: the usual one, plus what distinguishes settings of the same name."""
    names = [
        f"script w{s.workers}"
        if s.task == "script"
        else f"{s.model} {s.dataset} b{s.batch_size} {s.precision} w{s.workers}"
        for s in settings
    ]
    fields = [_flat({axis: getattr(setting, axis) for axis in axes}) for setting in settings]
    for name in dict.fromkeys(name for field in fields for name in field):
        alike: dict[str, list[int]] = {}
        for index, label in enumerate(names):
            alike.setdefault(label, []).append(index)
        for indices in alike.values():
            if len({fields[index].get(name) for index in indices}) > 1:
                for index in indices:
                    names[index] += _spelt(name, fields[index].get(name))
    if len(set(names)) < len(names):
        names = [
            f"{label} {content_hash(setting.model_dump(mode='json'))[:4]}"
            for label, setting in zip(names, settings, strict=True)
        ]
    return names


def _spelt(name: str, value: str | None) -> str:
    if value is None:
        return ""
    return f" {value}" if name == "optimizer.name" else f" {name.removeprefix('optimizer.')}={value}"


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested fields by dotted name, as short texts: {"optimizer.lr": "0.001"}."""
    plain = {key: one.model_dump(mode="json") if isinstance(one, BaseModel) else one for key, one in values.items()}
    named = dotted(plain, whole={"model_options"})
    return {name: _short(value) for name, value in named if value != {} or name.endswith("model_options")}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={item}" for name, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def missing_space(values: Mapping[str, str]) -> UserError:
    """The error for a missing space, or a mistyped `space` key."""
    mistyped = next(iter(get_close_matches("space", values, n=1)), "")
    told = (
        f"unknown key {mistyped}=; did you mean space=?"
        if mistyped
        else "name a space, as in space=quickstart, or --help"
    )
    return UserError(f"space= is missing: {told}")


def plan_from_arguments(values: dict[str, str], *, large: bool = False) -> tuple[Plan, Space]:
    """The plan for `space=... size=... sweep=... key=value ...`; a huge one only if `large`.

    Raises UserError.
    """
    overrides = dict(values)
    if "space" not in overrides:
        raise missing_space(values)
    sweep = overrides.pop("sweep", None)
    if sweep is not None:
        check_name("sweep", sweep)
    name, space = load_space(overrides.pop("space"), size=overrides.pop("size", ""), overrides=overrides, large=large)
    check_name("space", name)
    return build_plan(name, space, sweep or ""), space


def check_name(key: str, name: str) -> None:
    """Raise UserError unless `name` can name a folder: letters, digits, `.`, `_`, `-`."""
    allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    if not name or len(name) > 80 or name[0] in ".-" or any(letter not in allowed for letter in name):
        raise UserError(
            f"{key}={name}: a name is 1 to 80 letters, digits, '.', '_' or '-', and begins with none of '.-'"
        )
