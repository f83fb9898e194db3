"""The arms: how a setting is trained. An engine and its options, checked against what raybench decides itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from raybench.declare.packages import check_packages
from raybench.declare.setting import Positive, Strict


class _Arm(Strict):
    setting: dict[str, Any] = Field(default_factory=dict)  # fields of the setting that differ in this arm
    packages: dict[str, str] = Field(default_factory=dict)  # its own versions: its legs run in another environment

    @field_validator("setting")
    @classmethod
    def _shares_the_trial(cls, setting: dict[str, Any]) -> dict[str, Any]:
        for key in ("workers", "nodes", "accelerator", "node_labels", "device", "dataset"):
            if key in setting:
                raise ValueError(
                    f"{key!r} cannot differ by arm: all arms of a trial share processes and data; take it out"
                )
        return setting

    @field_validator("packages", mode="before")
    @classmethod
    def _can_be_installed(cls, packages: Any) -> Any:
        if not isinstance(packages, dict):
            return packages
        for name, wanted in packages.items():
            if not isinstance(wanted, str):
                raise ValueError(f"{name}: write the version as text, as in {name}: '{wanted}'")
        return check_packages(packages)


class TorchArm(_Arm):
    """Plain PyTorch: one process unwrapped, several through DistributedDataParallel."""

    engine: Literal["torch"] = "torch"
    broadcast_buffers: bool = False  # DeepSpeed sends no BatchNorm buffers, so DDP does only if asked
    gradient_as_bucket_view: bool = False
    static_graph: bool = False
    find_unused_parameters: bool = False  # for models with parameters that a step's loss does not use
    bucket_cap_mb: float | None = Field(default=None, gt=0)  # by default torch's 25 MiB
    communication_hook: Literal["none", "fp16", "bf16"] = "none"  # the type in which gradients are sent
    zero_redundancy_optimizer: bool = False  # optimizer state sharded over ranks, as ZeRO-1 does


class FsdpArm(_Arm):
    """FSDP2, `fully_shard` on each block of the model and on the rest."""

    engine: Literal["fsdp"]
    per_block: bool = True  # False: the whole model is one unit
    reshard_after_forward: bool = True  # False keeps the gathered weights for the backward pass, as ZeRO-2 does
    reduce_dtype: Literal["fp32", "bf16", "fp16"] | None = None  # gradients are sent in this type; else in their own
    cpu_offload: bool = False


class DeepSpeedArm(_Arm):
    """A DeepSpeed engine: any DeepSpeed config passes through, with shorthands for the common parts.

    `declare.deepspeed_config` resolves the config for a setting and finds its problems.
    """

    engine: Literal["deepspeed"]
    zero: Literal[0, 1, 2, 3] | None = None
    offload: Literal["optimizer", "parameters", "both"] | None = None
    overlap_comm: bool | None = None
    reduce_bucket_size: Positive | None = None  # elements
    allgather_bucket_size: Positive | None = None  # elements
    compile: Literal["deepcompile"] | None = None  # DeepSpeed's own compiler passes over torch.compile
    config: dict[str, Any] = Field(default_factory=dict)

    def shorthands(self) -> dict[str, Any]:
        """The keys of `zero_optimization` that the arm's own fields set."""
        wanted = {
            "stage": self.zero,
            "offload_optimizer": {"device": "cpu"} if self.offload in ("optimizer", "both") else None,
            "offload_param": {"device": "cpu"} if self.offload in ("parameters", "both") else None,
            "overlap_comm": self.overlap_comm,
            "reduce_bucket_size": self.reduce_bucket_size,
            "allgather_bucket_size": self.allgather_bucket_size,
        }
        return {key: value for key, value in wanted.items() if value is not None}


class ScriptArm(_Arm):
    """A user's own training script, run unchanged; `declare.script` says what its command may contain."""

    engine: Literal["script"]
    command: str | tuple[str, ...]  # split as by a shell, run without one; {workers} and the like are filled in
    environment: dict[str, str] = Field(default_factory=dict)  # in addition to the workers'; "" removes a variable
    folder: str = "."  # where it runs; relative to where the sweep was started

    @field_validator("environment", mode="before")
    @classmethod
    def _as_texts(cls, values: Any) -> Any:
        plain = (str, int, float)
        return (
            {key: str(value) if isinstance(value, plain) else value for key, value in values.items()}
            if isinstance(values, dict)
            else values
        )


Arm = Annotated[TorchArm | FsdpArm | DeepSpeedArm | ScriptArm, Field(discriminator="engine")]
