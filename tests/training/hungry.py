"""A model whose appetite is known: each sample keeps `mebibytes` MiB for the backward pass."""

from __future__ import annotations

import torch
from torch import nn


class _Keep(torch.autograd.Function):
    """Passes its input on and keeps a block of memory a sample until the backward pass."""

    @staticmethod
    def forward(ctx, features: torch.Tensor, mebibytes: int) -> torch.Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(torch.ones(len(features), mebibytes * 2**18))
        return features.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[no-untyped-def, override]
        (kept,) = ctx.saved_tensors
        return gradient * kept[:, :1], None


class Hungry(nn.Module):
    """One linear layer and the block that each sample keeps."""

    def __init__(self, num_classes: int, in_chans: int, image_size: int, mebibytes: int) -> None:
        super().__init__()
        self.mebibytes = mebibytes
        self.linear = nn.Linear(in_chans * image_size**2, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(_Keep.apply(images.flatten(1), self.mebibytes))
        return logits


def build(num_classes: int, in_chans: int, image_size: int, mebibytes: int) -> nn.Module:
    """The model, as `module:function` of a space."""
    return Hungry(num_classes, in_chans, image_size, mebibytes)
