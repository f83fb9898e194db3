"""The space: one YAML file that says which settings, which arms, which protocol, how many repeats.

Reads the file, merges `key=value` overrides (OmegaConf's dotlist), validates (pydantic, unknown keys
forbidden). Every error names file, line and key. No ray and no torch here.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from raybench.declare import catalog, script
from raybench.declare.arms import Arm, DeepSpeedArm, FsdpArm, ScriptArm, TorchArm
from raybench.declare.audit import declared_options, differences, known_words, links, undeclared
from raybench.declare.deepspeed_config import resolve
from raybench.declare.protocol import Protocol, Throughput, Train
from raybench.declare.repeats import Look, Repeats, schedule
from raybench.declare.setting import Adam, Lamb, LossScale, Positive, Schedule, Setting, Sgd, Strict, fits_one_task
from raybench.declare.spacefile import Place, SpaceFile
from raybench.errors import UserError
from raybench.text import suggest

SANE_LEGS = 10_000  # larger plans must be confirmed
MOST_LEGS = 1_000_000
ModelT = TypeVar("ModelT", bound=BaseModel)


class Question(Strict):
    """What counts as an effect: `margin` is the relative change below which there is none, `alpha` the level.

    `quality_margin` is the accuracy that an arm may lose and still count as trained equally well: 0.01 is one point.
    `multiplicity` says which error rate over all claims of a sweep is held at alpha: the chance of any wrong claim
    (`holm`), or the share of wrong ones (`fdr`). `variance` says whether comparisons share information on their noise
    (`moderated`).
    """

    margin: float = Field(default=0.03, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    quality_margin: float = Field(default=0.01, gt=0, lt=1)
    multiplicity: Literal["holm", "fdr"] = "holm"
    variance: Literal["moderated", "own"] = "moderated"


def _kind_of_repeats(value: Any) -> str:
    return "min and max" if isinstance(value, (Mapping, Repeats)) else "number"


class Space(Strict):
    """A validated space. `settings()` gives the product of the axes, or with `variants` the union of products."""

    question: Question = Question()
    setting: dict[str, Any]
    variants: tuple[dict[str, Any], ...] = ()  # each replaces fields of the setting, and may have axes
    arms: dict[str, Arm]
    baseline: str = ""
    differs: tuple[str, ...] = ()  # settings in which the arms are meant to differ, besides the engine
    chain: bool = False  # the arms form a chain, in order: each differs from the one before in one thing
    protocol: Protocol = Throughput()
    explain: bool = False  # one more leg of each arm in each setting, under a profiler
    repeats: Annotated[
        Annotated[Positive, Tag("number")] | Annotated[Repeats, Tag("min and max")], Discriminator(_kind_of_repeats)
    ] = 8
    seed: int = Field(default=0, ge=0, lt=2**63)
    isolation: Literal["shared", "fresh"] = "shared"
    slots_per_node: int = Field(
        default=1, gt=0, le=64
    )  # trials that may run on a node at a time; above 1 they disturb each other
    leg_timeout_seconds: float = Field(default=1800.0, gt=0, le=30 * 86400)

    @field_validator("arms")
    @classmethod
    def _two_arms(cls, arms: dict[str, Any]) -> dict[str, Any]:
        if len(arms) < 2:
            have = f"only {next(iter(arms))!r}" if arms else "none"
            raise ValueError(f"a comparison needs two arms or more, but the space has {have}; add one")
        return arms

    @model_validator(mode="before")
    @classmethod
    def _first_is_baseline(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("baseline") and isinstance(values.get("arms"), dict):
            return {**values, "baseline": next(iter(values["arms"]), "")}
        return values

    @model_validator(mode="before")
    @classmethod
    def _scripts_are_a_task(cls, values: Any) -> Any:
        """Allow model and data to be unnamed where every arm is a script, which brings its own."""
        arms = values.get("arms") if isinstance(values, dict) else None
        if not isinstance(arms, dict) or not arms:
            return values
        scripts = all(isinstance(arm, dict) and arm.get("engine") == "script" for arm in arms.values())
        setting = values.get("setting") or {}
        if not scripts or not isinstance(setting, dict) or {"task", "model", "dataset"} & set(setting):
            return values
        return {**values, "setting": {"task": "script", **setting}}

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline: {self.baseline!r} is not among the arms: {', '.join(self.arms)}")
        for word in self.differs:
            if word.partition(".")[0] not in known_words():
                raise ValueError(f"differs: unknown word {word!r}; {suggest(word, known_words(), most=8)}")
        return self

    @property
    def most_repeats(self) -> int:
        """The trials that a setting has at most."""
        return self.repeats.max if isinstance(self.repeats, Repeats) else self.repeats

    @property
    def looks(self) -> tuple[Look, ...]:
        """When the sweep looks at its verdicts and stops settled settings; empty for a fixed number of trials."""
        return schedule(self.repeats.min, self.repeats.max) if isinstance(self.repeats, Repeats) else ()

    def repeats_in_words(self) -> str:
        """`8 trials`, or `3 to 16 trials, until settled`."""
        if isinstance(self.repeats, Repeats):
            return f"{self.repeats.min} to {self.repeats.max} trials, until settled,"
        return f"{self.repeats} trial{'s' * (self.repeats > 1)}"

    def settings(self) -> Iterator[dict[str, Any]]:
        """The plain field values of every setting, by variant."""
        for variant in self.variants or ({},):
            yield from self.product(variant)

    def product(self, variant: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The settings of one variant, the last axis varying fastest."""
        fields = {**self.setting, **variant}
        axes = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in fields.items()}
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))

    def axes(self) -> list[str]:
        """The setting's fields in which the settings differ, as they are written."""
        settings = list(self.settings())
        keys = dict.fromkeys(key for values in settings for key in values)
        return [key for key in keys if len({repr(values.get(key)) for values in settings}) > 1]


def load_space(
    name_or_path: str,
    overrides: Mapping[str, str] | None = None,
    size: str = "",
    *,
    large: bool = False,
    has_run: bool = False,
) -> tuple[str, Space]:
    """The name and the validated content of a space, with one of its `sizes` and `key=value` overrides merged in.

    Overrides win over the size, and both over the variants. Raises UserError naming file, line and key for any error,
    and for more than `SANE_LEGS` legs unless `large`. A space that `has_run`, perhaps elsewhere, may name models,
    scripts and programs that this machine lacks.
    """
    file = SpaceFile.find(name_or_path).sized(size)
    values = file.merged(overrides or {})
    space = _validated(Space, values, file)
    _check_size(space, file, large)
    variants = _of_one_task(space, file)
    distinct = _check_settings(space, file, variants, has_run=has_run)
    if len(variants) < len(space.variants):
        space = space.model_copy(update={"variants": tuple(variant for _, variant in variants)})
    if len(distinct) < sum(1 for _ in space.settings()):
        space = space.model_copy(update={"variants": tuple(distinct)})
    return file.path.stem, space


def _check_size(space: Space, file: SpaceFile, large: bool) -> None:
    """Reject an unintentionally large product before expanding it."""
    products = (
        math.prod(len(value) for value in {**space.setting, **variant}.values() if isinstance(value, (list, tuple)))
        for variant in space.variants or ({},)
    )
    settings, rounds = sum(products), space.protocol.rounds
    legs = settings * space.most_repeats * len(space.arms) * rounds
    if legs > (MOST_LEGS if large else SANE_LEGS):
        remedy = f"split more than {MOST_LEGS:,} into several spaces" if legs > MOST_LEGS else "--yes accepts this many"
        raise UserError(
            f"{file.path}: {settings:,} settings x {space.most_repeats:,} repeats x {len(space.arms)} arms "
            f"x {rounds:,} rounds are {legs:,} legs; {remedy}"
        )


def check_model_name(name: str) -> None:
    """Raise ValueError unless `name` is a model that can be built here; any name passes without timm and torchvision.

    Checked when a space is read, not for every Setting: a plan may go to machines with other files.
    """
    known = catalog.known_models()
    prefix, _, plain = name.rpartition("/")
    if ":" in name:
        catalog.own_model_file(name)
    elif name in catalog.HF_MODELS and find_spec("transformers") is None:
        raise ValueError(f"{name!r} comes from transformers, which is not installed: pip install 'raybench[run]'")
    elif catalog.origin(name)[0] == "unknown" and (catalog.timm_models() or catalog.torchvision_models()):
        if os.path.isfile(f"{name}.py"):  # False, too, for what no file can be called
            raise ValueError(f"unknown model {name!r}; of {name}.py here, name the function too: {name}:FUNCTION")
        where = f" of {prefix}" if prefix in ("timm", "torchvision") and plain in known else ""
        raise ValueError(f"unknown model {name!r}{where}; {suggest(name if prefix == 'hf' else plain, known)}")


def _check_settings(
    space: Space, file: SpaceFile, variants: list[tuple[int, dict[str, Any]]], *, has_run: bool
) -> list[dict[str, Any]]:
    """The distinct settings. Rejects unknown fields, axes and models, settings that are wrong or duplicated, and arms
    that differ where they may not. Settings that became equal only by overrides are merged."""
    _check_axes(space.setting, ("setting",), file)
    places: dict[str, Place] = {}
    distinct: list[dict[str, Any]] = []
    for number, variant in variants:
        place = ("variants", str(number)) if space.variants else ("setting",)
        _check_axes(variant, place, file)
        for values in space.product(variant):
            prefixes = (place, ("setting",))
            setting = _validated(Setting, values, file, *prefixes)
            try:
                if setting.task != "script" and not has_run:
                    check_model_name(setting.model)
                if ":" in setting.task and not has_run:
                    catalog.own_model_file(setting.task)
            except ValueError as error:
                raise file.error((*file.written_under(prefixes, "model"), "model"), str(error)) from None
            content = setting.model_dump_json()
            if content in places:
                if file.overrides("setting"):
                    continue
                raise file.error(place, f"gives a setting that {'.'.join(places[content])} gives already; keep one")
            places[content] = place
            distinct.append(values)
            settings = {
                name: _validated(Setting, {**values, **arm.setting}, file, ("arms", name, "setting"), *prefixes)
                if arm.setting
                else setting
                for name, arm in space.arms.items()
            }
            _check_arms(space, settings, file)
            _check_scripts(space, settings, file, here=not has_run)
            if space.slots_per_node > 1 and setting.nodes > 1:
                raise file.error(
                    ("slots_per_node",),
                    f"a trial over several nodes has them to itself, and a setting has nodes: {setting.nodes}; take "
                    "one of the two out",
                )
    return distinct


def _of_one_task(space: Space, file: SpaceFile) -> list[tuple[int, dict[str, Any]]]:
    """The variants, numbered. Leaves out those in which an override mixes tasks, such as an image model on text: asking
    for another model means the variants that it fits. If it fits none, all are kept."""
    variants = list(enumerate(space.variants or ({},)))
    overridden = {place[1] for place in file.overridden if place[0] == "setting" and len(place) > 1}
    kept = [
        (number, variant) for number, variant in variants if fits_one_task({**space.setting, **variant}, overridden)
    ]
    return kept if overridden and kept else variants


def _check_axes(fields: Mapping[str, Any], place: Place, file: SpaceFile) -> None:
    known = list(Setting.model_fields)
    for key, value in fields.items():
        if key not in known:
            raise file.error((*place, key), f"unknown key {key!r}; {suggest(key, known, most=20)}")
        if isinstance(value, (list, tuple)):
            if not value:
                raise file.error((*place, key), "the axis is empty; give at least one value")
            if len({repr(item) for item in value}) < len(value):
                raise file.error((*place, key), f"the axis names a value twice: {list(value)}")


def _check_arms(space: Space, settings: dict[str, Setting], file: SpaceFile) -> None:
    """Reject impossible DeepSpeed configs, arms that differ from the baseline in what the space does not declare, and
    an invalid chain."""
    _check_configs(space, settings, file)
    base = declared_options(space.arms[space.baseline], settings[space.baseline])
    for name, arm in space.arms.items():
        hidden = undeclared(differences(declared_options(arm, settings[name]), base), space.differs)
        if hidden:
            words = ", ".join(dict.fromkeys([*space.differs, *(one.word for one in hidden)]))
            raise file.error(
                ("arms", name),
                f"is not trained as {space.baseline} is: {'; '.join(map(str, hidden))}; the speedup would not be the "
                f"engine's alone. Make them equal, or declare it with differs: [{words}]",
            )
    if space.chain:
        for before, name in itertools.pairwise(space.arms):
            things = links(space.arms[name], settings[name], space.arms[before], settings[before])
            if len(things) != 1:
                raise file.error(
                    ("arms", name),
                    f"in a chain an arm differs from the one before in exactly one thing; this one differs from "
                    f"{before} in {' and '.join(things) or 'nothing'}",
                )


def _check_configs(space: Space, settings: dict[str, Setting], file: SpaceFile) -> None:
    """Reject DeepSpeed arms that are impossible in their settings, with all problems in one message."""
    wrong = [
        (("arms", name, *problem.place), problem.words)
        for name, arm in space.arms.items()
        if isinstance(arm, DeepSpeedArm)
        for problem in resolve(arm, settings[name]).problems
    ]
    if len(wrong) == 1:
        raise file.error(*wrong[0])
    if wrong:
        each = "; ".join(f"[{file.where(place)}] {'.'.join(place[1:])}: {words}" for place, words in wrong)
        raise file.error(wrong[0][0], f"{len(wrong)} keys are not valid: {each}")


def _check_scripts(space: Space, settings: dict[str, Setting], file: SpaceFile, *, here: bool) -> None:
    """Reject commands that cannot run; whether programs and scripts exist is checked only if they run `here`."""
    here = here and os.environ.get("RAY_ADDRESS", "") in ("", "local")
    for name, arm in space.arms.items():
        if not isinstance(arm, ScriptArm):
            if settings[name].task == "script":
                raise file.error(("arms", name), f"engine {arm.engine} has no model to train where task is script")
            continue
        if words := script.problem(arm, settings[name], space.protocol, here=here):
            raise file.error(("arms", name, "command"), words.removeprefix("command: "))


def _validated(model: type[ModelT], values: Any, file: SpaceFile, *prefixes: Place) -> ModelT:
    """The values as a model; `prefixes` are the places where they may be written, the first one wins."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(error, model, file, prefixes) from None


def _explained(
    error: ValidationError, model: type[BaseModel], file: SpaceFile, prefixes: tuple[Place, ...]
) -> UserError:
    """The first of pydantic's errors as one line with file, line and key."""
    first, *others = error.errors(include_url=False)
    prefix = file.written_under(prefixes, *(str(part) for part in first["loc"][:1]))
    where = file.existing((*prefix, *(str(part) for part in first["loc"])))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        message = f"unknown key {where[-1]!r}; {suggest(where[-1], known, most=20)}"
    elif first["type"] == "union_tag_invalid":
        tags = [tag.strip("' ") for tag in first["ctx"]["expected_tags"].split(",")]
        tag, key = first["ctx"]["tag"], first["ctx"]["discriminator"].strip("'")
        message = f"unknown {key} {tag!r}; {suggest(tag, tags)}"
    elif first["type"] == "missing":
        message = f"{str(first['loc'][-1])!r} is missing"
    elif first["type"] not in ("value_error", "union_tag_not_found"):
        words = [other["ctx"]["expected"] for other in others if other["type"] == "literal_error"]  # `auto`, `max`
        if first["type"].startswith("int_"):
            message = message.partition(",")[0]  # without pydantic's attempt to parse it
        message = " or ".join([f"{message[:1].lower()}{message[1:]}", *words])
        message = f"{message}, not {first['input']!r:.60}"
    return file.error(where, message)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The known keys at a place in the model, following pydantic's error location."""
    known: dict[str, type[BaseModel]] = {
        "question": Question,
        "repeats": Repeats,
        "throughput": Throughput,
        "train": Train,
        "sgd": Sgd,
        "adam": Adam,
        "adamw": Adam,
        "lamb": Lamb,
        "schedule": Schedule,
        "loss_scale": LossScale,
        "torch": TorchArm,
        "fsdp": FsdpArm,
        "deepspeed": DeepSpeedArm,
        "script": ScriptArm,
    }
    innermost = next((known[str(part)] for part in reversed(location) if str(part) in known), model)
    return list(innermost.model_fields)
