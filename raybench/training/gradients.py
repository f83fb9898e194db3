"""A step's gradients as an engine shows them, for the look at a leg's first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gradients:
    """This rank's averaged gradients, as and where its engine keeps them."""

    tensors: list[torch.Tensor]
    sharded: bool  # each rank holds a part of its own; else each holds all of them
    scale: float = 1.0  # the loss was multiplied by it
    added_up_in: frozenset[torch.dtype] = frozenset()  # other types in which those of micro-batches were added up
