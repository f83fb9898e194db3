"""Models by name: raybench's own LeNet, any timm model, any torchvision classifier, a user's
`module:function`; random weights always."""

from __future__ import annotations

import importlib
import inspect
import json
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raybench import catalog
from raybench.setting import Setting
from raybench.training.torchvision_ops import declare_missing


class LeNet(nn.Module):
    """The LeNet variant of DeepSpeed's CIFAR-10 example: two 5x5 convolutions, three linear layers."""

    def __init__(self, channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"lenet needs images of 16 pixels a side or more, not {image_size}")
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


def build_model(setting: Setting) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a setting on the CPU, from torch's current random state, and the options it was built with."""
    data = catalog.DATASETS[setting.dataset]
    name = setting.model.removeprefix("timm/")
    assert setting.image_size is not None
    if name == "lenet":
        return LeNet(data.channels, data.classes, setting.image_size), {}
    if ":" in name:
        return _own_model(name, setting, data)
    declare_missing()
    if name in catalog.timm_models():
        return _timm_model(name, setting.image_size, data, setting.model_options)
    import torchvision

    options = dict(setting.model_options)
    return torchvision.models.get_model(name, weights=None, num_classes=data.classes, **options), options


@cache
def forward_flops(model: str, dataset: str, image_size: int, model_options: str) -> int | None:
    """FLOPs of one image's forward pass of the plain model, as torch.utils.flop_counter counts them.

    `model_options` is JSON. Counted on meta tensors, where nothing is computed; None for a model that cannot run
    on them.
    """
    setting = Setting(
        model=model, dataset=dataset, image_size=image_size, batch_size=1, model_options=json.loads(model_options)
    )
    channels = catalog.DATASETS[dataset].channels
    try:
        with torch.device("meta"):
            network, _ = build_model(setting)
            with FlopCounterMode(display=False) as counter:
                network.eval()(torch.empty(1, channels, image_size, image_size))
    except (RuntimeError, NotImplementedError):  # a model of the user's own that looks at values
        return None
    return int(counter.get_total_flops())


def work_facts(setting: Setting, num_parameters: int) -> dict[str, Any]:
    """How much there is to compute: FLOPs of an image forward, and FLOPs of its training step (three times that, by
    the usual rule for the backward pass) for each byte of fp32 gradient that ranks exchange."""
    assert setting.image_size is not None
    options = json.dumps(setting.model_options, sort_keys=True)
    flops = forward_flops(setting.model, setting.dataset, setting.image_size, options)
    if flops is None:
        return {}
    return {"flops_per_image": flops, "flops_per_byte": 3 * flops / (4 * num_parameters)}


def _own_model(name: str, setting: Setting, data: catalog.DatasetFacts) -> tuple[nn.Module, dict[str, Any]]:
    """A user's `module:function`, called with num_classes, in_chans, image_size and the model_options."""
    module, _, function = name.partition(":")
    build = getattr(importlib.import_module(module), function)
    options = dict(setting.model_options)
    return build(num_classes=data.classes, in_chans=data.channels, image_size=setting.image_size, **options), options


def _timm_model(
    name: str, image_size: int, data: catalog.DatasetFacts, asked: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    import timm

    options: dict[str, Any] = {"num_classes": data.classes, "in_chans": data.channels}
    if _takes_image_size(name):
        options["img_size"] = image_size
        if image_size < 64 and catalog.timm_models()[name] in ("vision_transformer", "deit"):
            options["patch_size"] = max(1, image_size // 8)  # 64 patches, as CIFAR-sized ViTs have
    options |= asked
    return timm.create_model(name, pretrained=False, **options), options


def _takes_image_size(name: str) -> bool:
    """Whether a timm model is built for one image size, told from the class that its module builds."""
    source = importlib.import_module(f"timm.models.{catalog.timm_models()[name]}")
    classes = [value for _, value in inspect.getmembers(source, inspect.isclass) if value.__module__ == source.__name__]
    return any({"img_size", "num_classes"} <= set(inspect.signature(value).parameters) for value in classes)
