"""The blocks of a model: the repeated parts that FSDP2 shards, and activation checkpointing recomputes, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules that the model itself declares whole (transformers' `_no_split_modules`); else the outermost modules
    of a class that occurs more than once, single layers and containers not counted; where there are none, the direct
    children that have parameters."""
    declared, shared = _declared(model), _shared(model)
    composed = [module for module in model.modules() if module is not model and _is_composed(module)]
    counts = Counter(type(module) for module in composed)
    blocks: list[nn.Module] = []
    inside: set[int] = set()
    for module in composed:  # outer ones come first
        is_block = counts[type(module)] > 1
        if declared:  # a part whose weights another part has too (BERT's embeddings, its head's) stays with the rest
            own = {id(parameter) for parameter in module.parameters()}
            is_block = type(module).__name__ in declared and not own & shared
        if is_block and id(module) not in inside:
            blocks.append(module)
            inside.update(id(part) for part in module.modules())
    return blocks or [*_children(model)]


def _declared(model: nn.Module) -> set[str]:
    """The names of the classes that the model or a part of it declares whole, as far as it has such parts."""
    classes = {type(module).__name__ for module in model.modules()}
    parts = (getattr(module, "_no_split_modules", None) or () for module in model.modules())
    return {name for part in parts for name in part if name in classes}


def _shared(model: nn.Module) -> set[int]:
    """Parameters that several modules have."""
    places = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return {parameter for parameter, count in places.items() if count > 1}


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The direct children that have parameters; those of a list or dict of modules, which has no forward, instead of
    it."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _children(child)
        elif any(True for _ in child.parameters()):
            yield child


def _is_composed(module: nn.Module) -> bool:
    if type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return False
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def checkpoint_activations(model: nn.Module) -> None:
    """Make every block forget its activations in the forward pass and compute them again in the backward pass."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def num_checkpointed(model: nn.Module) -> int:
    """How many modules do so, read off their live forward."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    return sum(isinstance(forward, partial) and forward.func is checkpoint for forward in forwards)
