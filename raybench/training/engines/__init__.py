"""Engines: the one place where the arms of a comparison differ. The loop cannot tell them apart."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import torch
from torch import nn

from raybench.declare.arms import Arm, DeepSpeedArm, FsdpArm, TorchArm
from raybench.declare.plan import Leg
from raybench.training.gradients import Gradients


class Engine(Protocol):
    """One arm's way to train a model.

    A step is `accumulation` pairs of forward and backward (`last` on the last pair), then `step`.
    """

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        """The model's output for a micro-batch; takes the arguments of the model's own forward."""

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Accumulate the gradient of `loss` / accumulation; the last also averages it over ranks."""

    def step(self) -> None:
        """Clip (where asked), take the optimizer's step, set gradients to zero."""

    def gradients(self) -> Gradients:
        """The averaged gradients, between the last backward and `step`. Makes no collective call.

        Raises NotReadable where the engine does not expose them.
        """

    def checksum(self) -> float:
        """A number that changes when any of this rank's parameters does."""

    def held(self) -> dict[str, Any]:
        """This rank's own tensors by purpose, with the keys of `memory.PARTS`; None for what it does not expose.

        Called between the last backward and `step` for the gradients, and after the steps for the rest.
        """

    def facts(self) -> dict[str, Any]:
        """Facts about the live engine after its steps; the key `informative` holds those that are not compared."""

    def destroy(self) -> None:
        """Release everything, so that the next engine in this process starts as the first did."""


def build_engine(leg: Leg, model: nn.Module, device: torch.device) -> Engine:
    """The engine of a leg around `model`, which is on `device`. Raises InvalidConfig or Unsupported."""
    engine: Engine = engine_class(leg.arm)(leg.arm, leg.setting, model, device)
    return engine


def engine_class(arm: Arm) -> Any:
    """The class that trains an arm; imports its libraries."""
    if isinstance(arm, DeepSpeedArm):
        from raybench.training.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine
    if isinstance(arm, FsdpArm):
        from raybench.training.engines.fsdp_engine import FsdpEngine

        return FsdpEngine
    from raybench.training.engines.torch_engine import TorchEngine

    assert isinstance(arm, TorchArm), "a script has no engine; raybench.training.script_leg runs it"
    if arm.zero_redundancy_optimizer:
        importlib.import_module("torch.distributed.optim")  # 0.2 s, and few arms want it
    return TorchEngine
