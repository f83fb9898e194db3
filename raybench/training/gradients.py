"""A step's gradients as an engine exposes them, for the checks in a leg's first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gradients:
    """This rank's averaged gradients, as its engine stores them."""

    tensors: list[torch.Tensor]
    sharded: bool  # whether each rank holds only its own part
    scale: float = 1.0  # factor that the loss was multiplied by
    added_up_in: frozenset[torch.dtype] = frozenset()  # other types in which micro-batches' gradients were summed
