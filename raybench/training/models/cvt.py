"""CvT (Wu et al. 2021, convolutional vision transformers) through transformers: random weights, nothing downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from raybench.declare.datasets import DatasetFacts
from raybench.errors import InvalidConfig
from raybench.training.models.torchvision_ops import declare_missing

_DEPTHS = {"cvt_13": [1, 2, 10], "cvt_21": [1, 4, 16]}  # blocks in each stage, table 2 of the paper


class CvT(nn.Module):
    """transformers' CvtForImageClassification, returning only logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of images (batch, channels, side, side)."""
        logits: torch.Tensor = self.network(pixel_values=images).logits
        return logits


def build_cvt(
    name: str, data: DatasetFacts, *, patched: bool, asked: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """CvT-13 or CvT-21 and the arguments of its CvtConfig.

    `patched`: the first stage embeds 3x3 patches at every pixel; the paper's embeds 7x7 patches at every fourth pixel.
    Raises InvalidConfig without transformers.
    """
    if find_spec("transformers") is None:
        raise InvalidConfig(f"{name} comes from transformers, which is not installed: pip install 'raybench[run]'")
    declare_missing()  # transformers imports torchvision
    from transformers import CvtConfig, CvtForImageClassification

    options = {"num_labels": data.classes, "num_channels": data.channels, "depth": _DEPTHS[name]}
    if patched:
        options |= {"patch_sizes": [3, 3, 3], "patch_stride": [1, 2, 2], "patch_padding": [1, 1, 1]}
    options |= asked
    return CvT(CvtForImageClassification(CvtConfig(**options))), options
