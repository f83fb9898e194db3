"""A model whose layers stand in lists and dicts of modules, which have no forward of their own, behind a BatchNorm."""

from __future__ import annotations

import torch
from torch import nn


class Listed(nn.Module):
    """One convolution, its BatchNorm, and linear layers that the forward picks one by one."""

    def __init__(self, num_classes: int, in_chans: int, image_size: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.layers = nn.ModuleList([nn.Linear(8 * image_size**2, 32), nn.ModuleList([nn.Linear(32, 32)])])
        self.heads = nn.ModuleDict({"left": nn.Linear(32, num_classes), "right": nn.Linear(32, num_classes)})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.stem(images)).flatten(1)
        features = self.layers[1][0](torch.relu(self.layers[0](features)))  # type: ignore[index]
        logits: torch.Tensor = self.heads["left"](features) + self.heads["right"](features)
        return logits


def build(num_classes: int, in_chans: int, image_size: int) -> nn.Module:
    """The model, as `module:function` of a space."""
    return Listed(num_classes, in_chans, image_size)
