"""Models by name: raybench's own LeNets, timm models, torchvision classifiers, transformers' CvT, or a user's
`module:function`. Weights are always random; nothing is downloaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from raybench.declare import catalog
from raybench.declare.datasets import facts_of
from raybench.declare.setting import Setting
from raybench.declare.small_images import patch_size
from raybench.errors import InvalidConfig
from raybench.machine.installed import own_versions
from raybench.machine.kept import kept, name_of
from raybench.training.models.cvt import build_cvt
from raybench.training.models.lenets import LENETS
from raybench.training.models.stems import open_stem
from raybench.training.models.torchvision_ops import declare_missing
from raybench.training.models.user_code import load_own

Options = dict[str, Any]
# In training these also return logits of auxiliary classifiers, which no loss here handles.
_WITHOUT_AUXILIARIES = {"googlenet": {"aux_logits": False, "init_weights": True}, "inception": {"aux_logits": False}}


@dataclass(frozen=True)
class Inspection:
    """What is known about a model before building it: image size argument, work, or why it cannot be built."""

    sized: bool  # whether its constructor takes the image size
    flops: int | None  # one image's forward pass; None where it cannot be counted without computing
    problem: str = ""


def build_model(setting: Setting) -> tuple[nn.Module, Options]:
    """The model of a setting on the CPU, from torch's current random state, and the options it was built with.

    It maps images (batch, channels, side, side) to logits (batch, classes). Raises InvalidConfig where it cannot be
    built with these options, or cannot take such images.
    """
    found = inspect_model(setting)
    if found.problem:
        raise InvalidConfig(found.problem)
    return _construct(setting, sized=found.sized)


def inspect_model(setting: Setting) -> Inspection:
    """Try a model on meta tensors, without computing; once for each model, options and image size.

    Results for library models are kept on this machine: torch imports its compiler for this (3 s a process).
    """
    options = json.dumps(setting.model_options, sort_keys=True)
    # Some batch norms cannot train on a single image. The largest batch is unknown before the search.
    images = 2 if setting.batch_size == "max" else min(setting.micro_batch, 2)
    assert setting.image_size is not None
    data = setting.dataset, setting.data_root
    return _inspected(setting.model, data, setting.image_size, options, setting.small_images, images)


def work_facts(setting: Setting, num_parameters: int) -> dict[str, Any]:
    """The work: FLOPs of one image's forward pass, and FLOPs of its training step (three times that, the usual rule for
    the backward pass) for each byte of fp32 gradient that ranks exchange."""
    flops = inspect_model(setting).flops
    if flops is None:
        return {}
    return {"flops_per_image": flops, "flops_per_byte": 3 * flops / (4 * num_parameters)}


@cache
def versions() -> dict[str, str | None]:
    """The versions that determine a model: raybench's, torch's and those of the model libraries."""
    libraries = ("timm", "torchvision", "transformers")
    found = {name: metadata.version(name) if find_spec(name) else None for name in libraries}
    return {**found, "torch": torch.__version__, "raybench": own_versions()["raybench"]}


@cache
def _inspected(
    model: str, data: tuple[str, str], image_size: int, model_options: str, small_images: Any, images: int
) -> Inspection:
    def find() -> dict[str, Any]:
        return asdict(_inspect(model, data, image_size, model_options, small_images, images))

    if ":" in model:  # user code may change
        return Inspection(**find())
    facts = facts_of(*data)
    question = [model, facts.channels, facts.classes, image_size, model_options, small_images, images, versions()]
    return Inspection(**(kept(name_of("model", question), find) or {}))


def _inspect(
    model: str, data: tuple[str, str], image_size: int, model_options: str, small_images: Any, images: int
) -> Inspection:
    setting = Setting(
        model=model, dataset=data[0], data_root=data[1], image_size=image_size, batch_size=images,
        model_options=json.loads(model_options), small_images=small_images,
    )  # fmt: skip
    problem = ""
    with torch.random.fork_rng(devices=[]):
        for sized in (True, False):
            try:
                network = _on_meta(setting, sized=sized)
            except InvalidConfig as error:
                return Inspection(sized, None, str(error))
            except Exception as error:  # a constructor may raise anything; all is reported
                if not (sized and "unexpected keyword argument 'im" in str(error)):
                    problem = problem or _in_one_line(setting, error)
                continue
            try:
                return Inspection(sized, _forward_flops(network, setting))
            except Exception as error:
                if "meta" in str(error).lower():  # the model reads values, which meta tensors lack
                    return Inspection(sized, None)
                problem = problem or _in_one_line(setting, error)
    return Inspection(False, None, problem)


def _in_one_line(setting: Setting, error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{setting.model} at {setting.image_size}x{setting.image_size}: {type(error).__name__}: {words:.500}"


def _on_meta(setting: Setting, *, sized: bool) -> nn.Module:
    """The model on meta tensors, or with values where its constructor needs them."""
    try:
        with torch.device("meta"):
            return _construct(setting, sized=sized)[0]
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error).lower():
            raise
    return _construct(setting, sized=sized)[0].to("meta")


def _forward_flops(network: nn.Module, setting: Setting) -> int:
    """FLOPs of one image's forward pass by torch.utils.flop_counter, which counts a multiply-add as two. Raises
    whatever the model raises, and ValueError where it gives no logits."""
    from torch.utils.flop_counter import FlopCounterMode

    data, size = facts_of(setting.dataset, setting.data_root), setting.image_size
    assert size is not None
    with torch.device("meta"):
        output = network.train()(torch.empty(setting.micro_batch, data.channels, size, size))
        logits = getattr(output, "logits", output)
        if not isinstance(logits, torch.Tensor) or logits.shape != (setting.micro_batch, data.classes):
            given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"it is no classifier: it gives {given}, not {setting.micro_batch} x {data.classes} logits"
            )
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.empty(1, data.channels, size, size))
    return int(counter.get_total_flops())


def _construct(setting: Setting, *, sized: bool) -> tuple[nn.Module, Options]:
    """The model on torch's default device. `sized`: pass the image size to its constructor."""
    data, size = facts_of(setting.dataset, setting.data_root), setting.image_size
    library, source = catalog.origin(setting.model)
    name = setting.model.rpartition("/")[2]
    assert size is not None
    options: Options
    if library == "own":
        options = dict(setting.model_options)
        own = load_own(setting.model)(num_classes=data.classes, in_chans=data.channels, image_size=size, **options)
        if not isinstance(own, nn.Module):
            raise InvalidConfig(f"{setting.model} gives {type(own).__name__}, not a torch.nn.Module")
        return own, options
    if library == "raybench":
        return LENETS[name](data.channels, data.classes, size, **setting.model_options), dict(setting.model_options)
    if library == "transformers":
        return build_cvt(name, data, patched=setting.small_images == "patch", asked=setting.model_options)
    declare_missing()
    if library == "timm":
        import timm

        options = {"num_classes": data.classes, "in_chans": data.channels}
        options |= {"img_size": size} if sized else {}
        options |= {"patch_size": patch_size(size)} if setting.small_images == "patch" else {}
        options |= setting.model_options
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
    else:
        import torchvision

        options = {"num_classes": data.classes, **_WITHOUT_AUXILIARIES.get(source, {})}
        options |= {"image_size": size} if sized else {}
        options |= setting.model_options
        model = torchvision.models.get_model(name, weights=None, **options)
    if setting.small_images == "stem":
        options["stem"] = open_stem(model, setting.model, data.channels)
    return model, options
