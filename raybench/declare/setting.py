"""The setting: what is trained, every choice explicit, the same for all arms unless a space declares otherwise.

A field added here needs a default: ids are hashes of non-default values, so a new field changes no id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raybench.declare import catalog
from raybench.declare.datasets import DATASETS
from raybench.declare.small_images import SMALL_IMAGES, SmallImages, resolve
from raybench.declare.texts import SYNTHETIC_SEQUENCES, TEXTS
from raybench.text import suggest

Positive = Annotated[int, Field(gt=0, lt=2**31)]  # fits a column of the ledger
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
TorchKernel = Literal["auto", "foreach", "fused", "for-loop"]  # auto: torch's own choice


class Strict(BaseModel):
    """Immutable; unknown keys, infinities and nan are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sgd(Strict):
    """torch.optim.SGD with every hyper-parameter explicit."""

    name: Literal["sgd"] = "sgd"
    kernel: TorchKernel = "foreach"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and no dampening")
        return self


class Adam(Strict):
    """Adam or AdamW with every hyper-parameter explicit; kernel `deepspeed` is its FusedAdam, CPUAdam with offload."""

    name: Literal["adam", "adamw"]
    kernel: TorchKernel | Literal["deepspeed"] = "foreach"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas lie from 0 to below 1, not {list(betas)}")
        return betas


class Lamb(Strict):
    """LAMB with every hyper-parameter explicit: timm's in torch kernels, or DeepSpeed's FusedLamb (CUDA only).

    The two are not the same algorithm (FusedLamb bounds the trust ratio to [0.01, 10]), and the facts say so.
    """

    name: Literal["lamb"]
    kernel: Literal["foreach", "for-loop", "deepspeed"] = "foreach"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


Optimizer = Annotated[Sgd | Adam | Lamb, Field(discriminator="name")]


class Schedule(Strict):
    """The learning rate over optimizer steps: linear warm-up for `warmup_steps`, then constant, or down to 0 at
    `total_steps`, linearly or along a half cosine."""

    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    total_steps: Positive | None = None  # warm-up and decay together

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.name == "constant":
            if self.total_steps is not None:
                raise ValueError("a constant schedule has no total_steps; take it out")
        elif self.total_steps is None:
            raise ValueError(f"a {self.name} schedule decays until total_steps; give it")
        elif self.total_steps <= self.warmup_steps:
            raise ValueError(f"total_steps {self.total_steps} must be more than warmup_steps {self.warmup_steps}")
        return self

    def factor(self, step: int) -> float:
        """The factor on the learning rate in optimizer step `step`, from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.total_steps is None:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return 1 - done if self.name == "linear" else (1 + math.cos(math.pi * done)) / 2


class LossScale(Strict):
    """Loss scaling in fp16: doubled after `growth_interval` steps without an overflow, halved at each; 0: fixed."""

    initial: float = Field(default=65536.0, gt=0)
    growth_interval: int = Field(default=2000, ge=0, lt=2**31)

    @field_validator("initial")
    @classmethod
    def _power_of_two(cls, initial: float) -> float:
        if not math.log2(initial).is_integer():
            raise ValueError(f"a loss scale is a power of two, not {initial:g}")
        return initial


class RandAugment(Strict):
    """torchvision's RandAugment (Cubuk et al. 2020): `num_ops` random operations an image at `magnitude` of 30."""

    num_ops: Positive = 2
    magnitude: int = Field(default=9, ge=0, le=30)


class Augmentation(Strict):
    """Random changes to training images, the same in every arm of a trial; evaluation uses none.

    `crop` pads by that many pixels and crops at random; `resized_crop` crops a random part and resizes it. `mixup` and
    `cutmix` (their alpha; 0 is off) mix whole batches and make labels soft; with both, each batch gets one of them.
    """

    crop: int = Field(default=0, ge=0)
    resized_crop: bool = False
    flip: bool = False
    randaugment: RandAugment | Literal[False] = False
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)

    @field_validator("randaugment", mode="before")
    @classmethod
    def _by_default(cls, value: Any) -> Any:
        return RandAugment() if value is True else value

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.crop and self.resized_crop:
            raise ValueError("crop and resized_crop are two ways to crop; take one")
        return self


class Lora(Strict):
    """Low-rank adapters beside the weights (Hu et al. 2021), by peft: rank `r`, scaled by `alpha` / `r`.

    `targets` names the layers by the ends of their names; none: peft's defaults for the model's type.
    """

    r: Positive = 8
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()


DEFAULT_SEQUENCE: Final = 512  # tokens
_LABEL = (
    r"[A-Za-z0-9]([A-Za-z0-9_.\-]{0,61}[A-Za-z0-9])?"  # https://docs.ray.io/en/latest/ray-core/scheduling/labels.html
)


class Setting(Strict):
    """What is trained. Batch sizes count samples (images, sequences of tokens); `batch_size` is global:
    micro x accumulation x workers."""

    task: str = (
        "classification"  # or language, script, or module:Class; where not given, what model and dataset are for
    )
    model: str
    dataset: str
    data_root: str = "data"  # a folder, relative to where the command was started
    download: bool = False  # download the dataset into data_root if missing
    augmentation: Augmentation = Augmentation()
    image_size: Positive | None = None  # pixels a side; by default the dataset's own
    sequence_length: Positive | None = None  # tokens of a sample; 512 by default
    tokenizer: str | None = None  # the path of a tokenizer.json; without one, bytes are tokens
    batch_size: Positive | Literal["max"]  # max: for each arm workers x the largest micro-batch that fits
    # Bytes that a worker may use, for max; texts such as 2GiB are allowed. By default all of the GPU's memory.
    memory_limit: Annotated[int, Field(gt=0, lt=2**63)] | None = None
    accumulation: Positive = 1
    workers: Positive = 1
    nodes: Positive = 1  # number of machines; workers are spread evenly over them
    accelerator: str | None = None  # Ray's name for the accelerator of the nodes to use, as A100; any by default
    node_labels: dict[str, str] = Field(default_factory=dict)  # Ray labels that nodes must have; none: any node
    precision: Precision = "fp32"
    # For bf16 and fp16. autocast: weights stay fp32, operations run in the lower type. cast: weights are lower.
    mixed_precision: Literal["autocast", "cast"] = "autocast"
    loss_scale: LossScale = LossScale()  # for fp16
    optimizer: Optimizer = Field(default_factory=lambda: Adam(name="adamw"))
    schedule: Schedule = Schedule()
    gradient_clipping: float = Field(default=0.0, ge=0)  # norm; 0 disables clipping, in every engine
    activation_checkpointing: bool = False  # recompute each block of the model in the backward pass
    channels_last: bool = False
    compile: bool = False  # torch.compile
    loader_workers: int = Field(default=0, ge=0, le=64)
    prefetch_factor: Positive = 2  # micro-batches that each loader worker reads ahead
    deterministic: bool = False  # deterministic kernels only: bit-identical runs, but slower
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model_options: dict[str, Any] = Field(default_factory=dict)
    trainable: str | None = None  # regular expression: train only parameters whose names match; none: all
    lora: Lora | None = None
    # Fits the model to images under 64 pixels. A space may say `auto` or nothing; a Setting never does.
    small_images: SmallImages = "none"

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("memory_limit", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        return parse_bytes(value) if isinstance(value, str) else value

    @field_validator("accelerator")
    @classmethod
    def _named_as_ray_does(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", name):
            raise ValueError(f"an accelerator is named as Ray names it, as A100 or L4, not {name!r}")
        return name

    @field_validator("node_labels")
    @classmethod
    def _labels_as_ray_takes_them(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            prefix, _, name = key.rpartition("/")
            if not (re.fullmatch(_LABEL, name) and re.fullmatch(rf"({_LABEL})?", prefix)):
                raise ValueError(
                    f"{key!r} is not a valid key of a node label; write one like zone or ray.io/node-group"
                )
            if not re.fullmatch(_LABEL, value):
                raise ValueError(f"{key}: {value!r} is not a valid value of a node label; use letters, digits, - _ .")
        return labels

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        known = [*DATASETS, *TEXTS]
        if name not in known and name != "own":  # a user's task brings its data
            raise ValueError(f"unknown dataset {name!r}; {suggest(name, known)}")
        return name

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        if ":" not in name and name not in TASKS:
            raise ValueError(f"unknown task {name!r}; {suggest(name, TASKS)}, or module:Class")
        return name

    @field_validator("trainable")
    @classmethod
    def _is_expression(cls, expression: str | None) -> str | None:
        try:
            re.compile(expression or "")
        except re.error as error:
            raise ValueError(f"{expression!r} is not a valid regular expression: {error}") from None
        return expression

    @model_validator(mode="before")
    @classmethod
    def _fitted(cls, values: Any) -> Any:
        """Make the task, the image size with its remedy, and the sequence length explicit where they can be derived."""
        if not isinstance(values, Mapping):
            return values
        task = values.get("task") or task_of(values.get("model"), values.get("dataset"))
        values = {**values, "task": task}
        if task == "script":
            share = [values.get("workers", 1), values.get("accumulation", 1)]
            size = share[0] * share[1] if all(type(one) is int and one > 0 for one in share) else 1  # refused below
            return {"model": "script", "dataset": "own", "batch_size": size, **values}
        if task == "language":
            return {**values, "sequence_length": values.get("sequence_length") or DEFAULT_SEQUENCE}
        if isinstance(task, str) and ":" in task:
            return {"model": task, "dataset": "own", **values}
        model, dataset, size = values.get("model"), values.get("dataset"), values.get("image_size")
        asked = values.get("small_images", "auto")
        if not isinstance(model, str) or not isinstance(dataset, str) or dataset not in DATASETS:
            return values
        if asked not in SMALL_IMAGES or not (size is None or (type(size) is int and size > 0)):
            return values  # rejected below, by each field
        asked, size = resolve(model, DATASETS[dataset].image_size, size, asked)
        return {**values, "small_images": asked, "image_size": size}

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.workers % self.nodes:
            raise ValueError(f"workers {self.workers} cannot be spread evenly over nodes {self.nodes}; take a multiple")
        if self.batch_size == "max":
            self._can_be_sought()
            return self
        share = self.workers * self.accumulation
        if self.batch_size % share:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by workers {self.workers} x accumulation "
                f"{self.accumulation}; the global batch is micro x accumulation x workers"
            )
        samples = DATASETS[self.dataset].train_samples if self.dataset in DATASETS else 0
        kind = "images" if samples else "sequences"
        samples = SYNTHETIC_SEQUENCES[True] if self.dataset == "synthetic_tokens" else samples
        if samples and self.batch_size > samples:  # an image folder is counted on the machine that has it
            raise ValueError(f"batch_size {self.batch_size} is more than the {samples} {kind} of {self.dataset}")
        return self

    def _can_be_sought(self) -> None:
        if self.accumulation > 1:
            raise ValueError(
                f"batch_size max needs accumulation 1, but accumulation is {self.accumulation}; take one of them out"
            )
        if self.device == "cpu" and self.memory_limit is None:
            raise ValueError(
                "batch_size max on a CPU needs memory_limit, the bytes of a worker, as in memory_limit: 2GiB"
            )

    @model_validator(mode="after")
    def _belongs_to_the_task(self) -> Self:
        """Check that dataset, model and options belong to the task."""
        if ":" in self.task:
            return self
        known = TASKS[self.task]
        if self.dataset not in known:
            raise ValueError(f"dataset {self.dataset} is not for {self.task}; {suggest(self.dataset, known)}")
        if self.task == "script":
            return self
        other = _OF_IMAGES if self.task == "language" else _OF_TEXT
        for name in other & self.model_fields_set:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: {self.task} has none; take it out")
        library = catalog.origin(self.model)[0]
        if library not in (("hf", "own", "unknown") if self.task == "language" else _IMAGE_LIBRARIES):
            raise ValueError(f"model {self.model} does not fit task {self.task} of dataset {self.dataset}")
        if self.trainable is not None and self.lora is not None:
            raise ValueError("trainable and lora both choose what is trained; take one")
        return self

    @model_validator(mode="after")
    def _has_what_to_augment(self) -> Self:
        if self.dataset == "synthetic" and self.augmentation != Augmentation():
            raise ValueError("augmentation: synthetic is one batch without a loader; use synthetic_loader")
        fetched = self.dataset in DATASETS and DATASETS[self.dataset].files
        if self.download and not fetched and not self.model.startswith("hf/"):
            raise ValueError(f"download: there is nothing to fetch for {self.dataset}; take it out")
        return self

    def identity(self) -> dict[str, Any]:
        """What identifies the setting: every field that differs from its default, except the data's folder."""
        places = {"download"} if self.dataset in ("imagefolder", "text") else {"download", "data_root"}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=places)

    @property
    def workers_per_node(self) -> int:
        """Workers on each of the nodes."""
        return self.workers // self.nodes

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step over all ranks; a batch of `max` must have been found first."""
        assert self.batch_size != "max", "the largest batch is not found yet"
        return self.batch_size

    @property
    def micro_batch(self) -> int:
        """Samples of one forward pass of one rank; like `global_batch`."""
        return self.global_batch // (self.workers * self.accumulation)

    def with_micro_batch(self, micro_batch: int) -> Setting:
        """The same setting with this batch."""
        return self.model_copy(update={"batch_size": micro_batch * self.workers * self.accumulation})


TASKS: Final = {"classification": tuple(DATASETS), "language": TEXTS, "script": ("own",)}  # each with its datasets
_OF_IMAGES: Final = {"image_size", "augmentation", "channels_last", "small_images"}
_OF_TEXT: Final = {"sequence_length", "tokenizer", "lora"}
_IMAGE_LIBRARIES: Final = ("raybench", "transformers", "timm", "torchvision", "own", "unknown")


def task_of(model: Any, dataset: Any) -> str:
    """The task that a model or dataset is for, if a setting names none."""
    if dataset in TEXTS or (isinstance(model, str) and catalog.origin(model)[0] == "hf"):
        return "language"
    return "classification"


def fits_one_task(fields: Mapping[str, Any], named: Collection[str] = ()) -> bool:
    """Whether models, datasets and the `named` fields of a setting, which may be axes, belong to one task."""
    tasks = {"classification"} if _OF_IMAGES & set(named) else set()
    tasks |= {"language"} if _OF_TEXT & set(named) else set()
    for model in _listed(fields.get("model")):
        library = catalog.origin(str(model))[0]
        if library not in ("own", "unknown"):
            tasks.add("language" if library == "hf" else "classification")
    for dataset in _listed(fields.get("dataset")):
        tasks |= {task for task, known in TASKS.items() if dataset in known}
    return len(tasks) < 2


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_UNITS |= {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def parse_bytes(text: str) -> int:
    """Bytes of `2GiB`, `1.5 GB` or `1000000`. Raises ValueError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no number of bytes; write 2147483648, 2GiB or 2GB")
    return int(float(match[1]) * _UNITS[match[2]])
