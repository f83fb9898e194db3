"""LeNets: the one of DeepSpeed's CIFAR-10 example, and LeNet-5."""

from __future__ import annotations

import torch
from torch import nn


class LeNet(nn.Module):
    """The LeNet variant of DeepSpeed's CIFAR-10 example: two 5x5 convolutions, three linear layers."""

    def __init__(self, channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        side = _side_after(image_size, padding=0)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of images (batch, channels, side, side)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class LeNet5(nn.Module):
    """LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, figure 2) as it is commonly built today.

    Layers, widths, tanh and average pooling are the paper's; images of 28 pixels are padded to its 32. Differences from
    the paper: there the pooling has a weight and a bias for each map, C3 reads selected maps only (here all, so 2,416
    parameters instead of 1,516), the tanh is scaled, and the output layer uses radial basis functions (here linear).
    """

    def __init__(self, channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        padding = 2 if image_size == 28 else 0
        side = _side_after(image_size, padding=padding)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=padding), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(16 * side * side, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of images (batch, channels, side, side)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


LENETS: dict[str, type[LeNet] | type[LeNet5]] = {"lenet": LeNet, "lenet5": LeNet5}


def _side_after(image_size: int, *, padding: int) -> int:
    """Pixels a side after two 5x5 convolutions, each followed by a pooling of 2."""
    side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError(f"a LeNet needs images of 16 pixels a side or more, not {image_size}")
    return side
