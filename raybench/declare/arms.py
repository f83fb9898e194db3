"""The arms: how a setting is trained. An engine and its options, checked against what raybench itself decides.

Also what raybench adds to a DeepSpeed config: here, in one place, so that a plan can show it without DeepSpeed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raybench.declare.setting import Positive, Setting, Strict

_NEVER = 2**31 - 1


class _Arm(Strict):
    setting: dict[str, Any] = Field(default_factory=dict)  # fields of the setting that this arm trains with

    @field_validator("setting")
    @classmethod
    def _shares_the_trial(cls, setting: dict[str, Any]) -> dict[str, Any]:
        for key in ("workers", "nodes", "accelerator", "node_labels", "device", "dataset"):
            if key in setting:
                raise ValueError(f"{key!r} is the trial's: its arms run on the same processes and data; take it out")
        return setting


class TorchArm(_Arm):
    """PyTorch as it is: one process plain, several through DistributedDataParallel."""

    engine: Literal["torch"] = "torch"
    broadcast_buffers: bool = False  # DeepSpeed sends no BatchNorm buffers, so neither does DDP unless asked
    gradient_as_bucket_view: bool = False
    static_graph: bool = False
    bucket_cap_mb: float | None = Field(default=None, gt=0)  # torch's own 25 MiB where not given
    communication_hook: Literal["none", "fp16", "bf16"] = "none"  # gradients travel in this type
    zero_redundancy_optimizer: bool = False  # optimizer state sharded over ranks, as ZeRO-1 does


class FsdpArm(_Arm):
    """FSDP2, `fully_shard` on each block of the model and on the rest."""

    engine: Literal["fsdp"]
    per_block: bool = True  # False: the whole model is one unit
    reshard_after_forward: bool = True  # False keeps the gathered weights for the backward pass, as ZeRO-2 does
    reduce_dtype: Literal["fp32", "bf16", "fp16"] | None = None  # gradients travel in this type; else in their own
    cpu_offload: bool = False


class DeepSpeedArm(_Arm):
    """A DeepSpeed engine: any DeepSpeed config passes through, and there are shorthands for the common parts."""

    engine: Literal["deepspeed"]
    zero: Literal[0, 1, 2, 3] | None = None
    offload: Literal["optimizer", "parameters", "both"] | None = None
    overlap_comm: bool | None = None
    reduce_bucket_size: Positive | None = None  # elements
    allgather_bucket_size: Positive | None = None  # elements
    config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("config")
    @classmethod
    def _contradicts_nothing(cls, config: dict[str, Any]) -> dict[str, Any]:
        for key in FROM_THE_SETTING:
            if key in config:
                raise ValueError(f"{key!r} comes from the setting, the same for every arm; take it out of the config")
        for key, value in _CLOCK.items():
            if key in config and not _agrees(config[key], value):
                raise ValueError(f"{key!r} disturbs the clock: raybench writes {key}: {value}; take it out")
        for key in _INSTRUMENTS:
            section = config.get(key)
            if isinstance(section, Mapping) and section.get("enabled"):
                raise ValueError(f"{key!r} works inside the timed steps and would be measured; take it out")
        if not isinstance(config.get("zero_optimization", {}), Mapping):
            raise ValueError("zero_optimization is a section, as in zero_optimization: {stage: 2}")
        sections = [key for key in _PRECISION_SECTIONS if _enabled(config, key)]
        if len(sections) > 1:
            raise ValueError(f"{' and '.join(sections)} cannot both be enabled; keep one")
        return config

    @model_validator(mode="after")
    def _shorthands_agree(self) -> Self:
        section = self.config.get("zero_optimization", {})
        for key, value in self._shorthands().items():
            if key in section and section[key] != value:
                raise ValueError(
                    f"config.zero_optimization.{key}: {section[key]} contradicts the arm's own {key} {value}; keep one"
                )
        stage = self.zero_optimization.get("stage", 0)
        if stage not in (0, 1, 2, 3):
            raise ValueError(f"config.zero_optimization.stage is 0, 1, 2 or 3, not {stage}")
        if self.offload and stage < (1 if self.offload == "optimizer" else 3):
            wanted = "zero: 1 or more" if self.offload == "optimizer" else "zero: 3"
            raise ValueError(f"offload: {self.offload} needs {wanted}")
        if self.overlap_comm is not None and not stage:
            raise ValueError("overlap_comm belongs to zero: 1 or more")
        return self

    def _shorthands(self) -> dict[str, Any]:
        wanted = {
            "stage": self.zero,
            "offload_optimizer": {"device": "cpu"} if self.offload in ("optimizer", "both") else None,
            "offload_param": {"device": "cpu"} if self.offload in ("parameters", "both") else None,
            "overlap_comm": self.overlap_comm,
            "reduce_bucket_size": self.reduce_bucket_size,
            "allgather_bucket_size": self.allgather_bucket_size,
        }
        return {key: value for key, value in wanted.items() if value is not None}

    @property
    def zero_optimization(self) -> dict[str, Any]:
        """The config's zero_optimization section with the shorthands written out."""
        return {**self.config.get("zero_optimization", {}), **self._shorthands()}


Arm = Annotated[TorchArm | FsdpArm | DeepSpeedArm, Field(discriminator="engine")]

FROM_THE_SETTING = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
# The throughput timer synchronizes twice a step by default; the others print or break the step down.
_CLOCK: dict[str, Any] = {
    "steps_per_print": _NEVER,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "timers": {"throughput": {"enabled": False}},
}
_INSTRUMENTS = (
    "flops_profiler", "comms_logger", "autotuning", "tensorboard", "wandb", "csv_monitor", "comet",
)  # fmt: skip
_PRECISION_SECTIONS = ("bf16", "bfloat16", "fp16", "torch_autocast")
_AUTOCAST_NAMES = {"bf16": "bfloat16", "fp16": "float16"}


def _agrees(users: Any, written: Any) -> bool:
    if isinstance(written, Mapping):
        return isinstance(users, Mapping) and all(_agrees(users.get(key), value) for key, value in written.items())
    return bool(users == written)


def _enabled(config: Mapping[str, Any], key: str) -> bool:
    section = config.get(key)
    return isinstance(section, Mapping) and bool(section.get("enabled"))


def added_config(arm: DeepSpeedArm, setting: Setting) -> dict[str, Any]:
    """What raybench adds to an arm's DeepSpeed config, the arm's shorthands not counted.

    From the setting, the same in every arm: batch sizes (the largest once it is found), and gradient clipping written
    out, because DeepSpeed 0.19.8 clips at norm 1.0 where its config says nothing. For a fair clock: no timers, no
    monitor, no printing. The setting's precision, where the config names none; with `torch_autocast`, gradients then
    travel in their own type as they do under DDP, where DeepSpeed's default would send those of linear and convolution
    layers in the lower one.
    """
    added: dict[str, Any] = {}
    if setting.batch_size != "max":
        added |= {"train_batch_size": setting.global_batch, "train_micro_batch_size_per_gpu": setting.micro_batch}
    added |= {
        "gradient_accumulation_steps": setting.accumulation,
        "gradient_clipping": setting.gradient_clipping,
        **copy.deepcopy(_CLOCK),
    }
    if "optimizer" not in arm.config:  # raybench passes torch's own optimizer
        added |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    if not any(key in arm.config for key in _PRECISION_SECTIONS):
        added |= _precision_section(setting)
    return {key: value for key, value in added.items() if key not in arm.config}


def _precision_section(setting: Setting) -> dict[str, Any]:
    if setting.precision not in _AUTOCAST_NAMES:
        return {}
    if setting.mixed_precision == "autocast":
        dtype = _AUTOCAST_NAMES[setting.precision]
        return {"torch_autocast": {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}}
    if setting.precision == "bf16":
        return {"bf16": {"enabled": True}}
    scale = setting.loss_scale
    return {
        "fp16": {
            "enabled": True,
            "loss_scale": 0 if scale.growth_interval else scale.initial,
            "initial_scale_power": int(math.log2(scale.initial)),
            "loss_scale_window": scale.growth_interval or 1000,
            "hysteresis": 1,  # the scale is halved at every overflow, as torch's GradScaler does
            "min_loss_scale": 1,
        }
    }


def deepspeed_config(arm: DeepSpeedArm, setting: Setting) -> dict[str, Any]:
    """The whole DeepSpeed config of an arm: the user's, the shorthands written out, and what raybench adds."""
    config = copy.deepcopy(arm.config)
    zero = arm.zero_optimization
    return {**config, **({"zero_optimization": zero} if zero else {}), **added_config(arm, setting)}
