"""What is looked at in a leg's first step, which is never measured: types, the gradient's norm, who holds memory."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import nn

from raybench.training import facts, memory
from raybench.training.blocks import num_checkpointed
from raybench.training.engines import Engine


class Probed:
    """An engine for its first step: takes it as the engine does, and looks."""

    def __init__(self, engine: Engine, model: nn.Module, device: torch.device) -> None:
        self._engine, self._device = engine, device
        self.backward = engine.backward
        self.seen = facts.ForwardSeen(model, device.type)
        self.gradient_norm = math.nan
        shows = not facts.is_compiled(model) and not num_checkpointed(model)
        self._activations = memory.SavedForBackward(model) if shows else None
        self._gradients: int | None = None

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        first = self._activations is not None and self._activations.num_bytes is None
        with self._activations.watch((inputs, named)) if first and self._activations else contextlib.nullcontext():
            return self._engine.forward(*inputs, last=last, **named)

    def step(self) -> None:
        self.gradient_norm = self._engine.gradient_norm()
        self._gradients = memory.bytes_by_part(self._engine.held(), self._device)["gradients"]
        self._engine.step()
        self.seen.remove()

    def memory_parts(self) -> dict[str, int | None]:
        """This rank's bytes by what they hold, after the leg's steps; gradients and activations are those of the first.

        None where the engine does not show them.
        """
        activations = self._activations.num_bytes if self._activations is not None else None
        held = memory.bytes_by_part(self._engine.held(), self._device)
        return {**held, "gradients": self._gradients, "activations": activations}
