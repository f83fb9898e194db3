"""The space: one YAML file that says which settings, which arms, which protocol, how many repeats.

Reads the file, merges `key=value` overrides (OmegaConf's dotlist), validates (pydantic, unknown keys
forbidden). Every error names file, line and key. No ray and no torch here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raybench import catalog
from raybench.cli import suggest
from raybench.errors import UserError
from raybench.spacefile import SpaceFile

ModelT = TypeVar("ModelT", bound=BaseModel)
Positive = Annotated[int, Field(gt=0)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Question(_Strict):
    """What counts as an effect: `margin` is the relative change below which there is none, `alpha` the level."""

    margin: float = Field(default=0.03, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)


class Sgd(_Strict):
    """torch.optim.SGD with every hyper-parameter explicit."""

    name: Literal["sgd"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)


class Adam(_Strict):
    """torch.optim.Adam or AdamW with every hyper-parameter explicit."""

    name: Literal["adam", "adamw"]
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


Optimizer = Annotated[Sgd | Adam, Field(discriminator="name")]


class Setting(_Strict):
    """What is trained. Batch sizes count images; `batch_size` is global: micro x accumulation x workers."""

    model: str
    dataset: str
    image_size: Positive | None = None  # pixels a side; the dataset's own where not given
    batch_size: Positive
    accumulation: Positive = 1
    workers: Positive = 1
    precision: Precision = "fp32"
    optimizer: Optimizer = Field(default_factory=lambda: Adam(name="adamw"))
    gradient_clipping: float = Field(default=0.0, ge=0)  # 0 clips nothing, in every engine
    loader_workers: int = Field(default=0, ge=0, le=64)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model_options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("optimizer", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if ":" in name:
            catalog.own_model_file(name)
            return name
        known = catalog.known_models()
        plain = name.removeprefix("timm/")
        missing_libraries = known == set(catalog.OWN_MODELS)
        if plain not in known and not missing_libraries:
            raise ValueError(f"unknown model {name!r}; {suggest(plain, known)}")
        return name

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        if name not in catalog.DATASETS:
            raise ValueError(f"unknown dataset {name!r}; {suggest(name, catalog.DATASETS)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _native_size(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("image_size") is None:
            dataset = values.get("dataset")
            if isinstance(dataset, str) and dataset in catalog.DATASETS:
                return {**values, "image_size": catalog.DATASETS[dataset].image_size}
        return values

    @model_validator(mode="after")
    def _divides(self) -> Self:
        share = self.workers * self.accumulation
        if self.batch_size % share:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by workers {self.workers} x accumulation "
                f"{self.accumulation}; the global batch is micro x accumulation x workers"
            )
        samples = catalog.DATASETS[self.dataset].train_samples
        if self.batch_size > samples:
            raise ValueError(f"batch_size {self.batch_size} is more than the {samples} images of {self.dataset}")
        return self

    @property
    def micro_batch(self) -> int:
        """Images of one forward pass of one rank."""
        return self.batch_size // (self.workers * self.accumulation)


class _Arm(_Strict):
    setting: dict[str, Any] = Field(default_factory=dict)  # fields of the setting that this arm trains with


class TorchArm(_Arm):
    """PyTorch as it is: one process plain, several through DistributedDataParallel."""

    engine: Literal["torch"] = "torch"
    broadcast_buffers: bool = False  # DeepSpeed sends no BatchNorm buffers, so neither does DDP unless asked


# What raybench writes into a DeepSpeed config itself, from the setting, the same for every arm.
RESERVED_DEEPSPEED_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)


class DeepSpeedArm(_Arm):
    """A DeepSpeed engine; any DeepSpeed config passes through."""

    engine: Literal["deepspeed"]
    config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("config")
    @classmethod
    def _leaves_batches_to_the_setting(cls, config: dict[str, Any]) -> dict[str, Any]:
        for key in RESERVED_DEEPSPEED_KEYS:
            if key in config:
                raise ValueError(f"{key!r} comes from the setting, the same for every arm; take it out of the config")
        return config


Arm = Annotated[TorchArm | DeepSpeedArm, Field(discriminator="engine")]


class Throughput(_Strict):
    """Measure steps: `warmup_steps` kept but not measured, then `steps` measured, in each of `rounds` rounds."""

    kind: Literal["throughput"] = "throughput"
    warmup_steps: int = Field(default=20, ge=1)
    steps: int = Field(default=100, ge=2)
    rounds: Positive = 2
    phases: bool = True  # time forward, backward and optimizer step apart


class Space(_Strict):
    """A validated space. `settings()` gives the product of the axes."""

    question: Question = Question()
    setting: dict[str, Any]
    arms: dict[str, Arm]
    baseline: str = ""
    differs: tuple[str, ...] = ()  # settings in which the arms are meant to differ, beside the engine
    protocol: Throughput = Throughput()
    repeats: Positive = 8
    seed: int = Field(default=0, ge=0, lt=2**63)
    isolation: Literal["shared", "fresh"] = "shared"
    leg_timeout_seconds: float = Field(default=1800.0, gt=0)

    @field_validator("arms")
    @classmethod
    def _two_arms(cls, arms: dict[str, Any]) -> dict[str, Any]:
        if len(arms) < 2:
            have = f"only {next(iter(arms))!r}" if arms else "none"
            raise ValueError(f"a comparison needs two arms or more, and here is {have}; add one")
        return arms

    @model_validator(mode="before")
    @classmethod
    def _first_is_baseline(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("baseline") and isinstance(values.get("arms"), dict):
            return {**values, "baseline": next(iter(values["arms"]), "")}
        return values

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline: {self.baseline!r} is not among the arms: {', '.join(self.arms)}")
        for name, arm in self.arms.items():
            undeclared = sorted(set(arm.setting) - set(self.differs))
            if undeclared:
                raise ValueError(
                    f"arms.{name}.setting: {undeclared[0]!r} differs from the other arms; "
                    f"declare it with differs: [{', '.join(undeclared)}] or take it out"
                )
        return self

    def settings(self) -> Iterator[dict[str, Any]]:
        """The plain field values of every setting, the last axis varying fastest."""
        axes = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in self.setting.items()}
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))

    def axes(self) -> list[str]:
        """The names of the setting's fields that take more than one value."""
        return [key for key, value in self.setting.items() if isinstance(value, (list, tuple)) and len(value) > 1]


def load_space(name_or_path: str, overrides: Mapping[str, str] | None = None) -> tuple[str, Space]:
    """The name and the validated content of a space, with `key=value` overrides merged in.

    Raises UserError naming file, line and key for whatever is wrong.
    """
    file = SpaceFile.find(name_or_path)
    values = file.merged(overrides or {})
    space = _validated(Space, values, file, ())
    _check_settings(space, file)
    return file.path.stem, space


def _check_settings(space: Space, file: SpaceFile) -> None:
    known = list(Setting.model_fields)
    for key, value in space.setting.items():
        if key not in known:
            raise file.error(("setting", key), f"unknown key {key!r}; {suggest(key, known, most=20)}")
        if isinstance(value, (list, tuple)):
            if not value:
                raise file.error(("setting", key), "the axis is empty; give at least one value")
            if len({repr(item) for item in value}) < len(value):
                raise file.error(("setting", key), f"the axis names a value twice: {list(value)}")
    for values in space.settings():
        _validated(Setting, values, file, ("setting",))
        for name, arm in space.arms.items():
            _validated(
                Setting, {**values, **arm.setting}, file, ("arms", name, "setting") if arm.setting else ("setting",)
            )


def _validated(model: type[ModelT], values: Any, file: SpaceFile, prefix: tuple[str, ...]) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(error, model, file, prefix) from None


def _explained(error: ValidationError, model: type[BaseModel], file: SpaceFile, prefix: tuple[str, ...]) -> UserError:
    """The first of pydantic's findings as one line with file, line and key."""
    first = error.errors(include_url=False)[0]
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
        message = f"{message[:1].lower()}{message[1:]}, not {first['input']!r:.60}"
    return file.error(where, message)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place in the model, following pydantic's error location."""
    known: dict[str, type[BaseModel]] = {
        "question": Question,
        "protocol": Throughput,
        "sgd": Sgd,
        "adam": Adam,
        "adamw": Adam,
        "torch": TorchArm,
        "deepspeed": DeepSpeedArm,
    }
    innermost = next((known[str(part)] for part in reversed(location) if str(part) in known), model)
    return list(innermost.model_fields)
