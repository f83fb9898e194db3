"""A model's blocks: the repeated parts that FSDP2 shards and activation checkpointing recomputes one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules that the model declares unsplittable (transformers' `_no_split_modules`); else the outermost modules
    of a class that occurs more than once, except single layers and containers; else the direct children that have
    parameters."""
    declared, shared = _declared(model), _shared(model)
    composed = [module for module in model.modules() if module is not model and _is_composed(module)]
    counts = Counter(type(module) for module in composed)
    blocks: list[nn.Module] = []
    inside: set[int] = set()
    for module in composed:  # outer modules come first
        is_block = counts[type(module)] > 1
        if declared:  # parts with shared weights (BERT's embeddings, its head) stay with the rest
            own = {id(parameter) for parameter in module.parameters()}
            is_block = type(module).__name__ in declared and not own & shared
        if is_block and id(module) not in inside:
            blocks.append(module)
            inside.update(id(part) for part in module.modules())
    return blocks or [*_children(model)]


def _declared(model: nn.Module) -> set[str]:
    """The class names that the model or a part of it declares unsplittable, if it has such modules."""
    classes = {type(module).__name__ for module in model.modules()}
    parts = (getattr(module, "_no_split_modules", None) or () for module in model.modules())
    return {name for part in parts for name in part if name in classes}


def _shared(model: nn.Module) -> set[int]:
    """The ids of parameters that several modules share."""
    places = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return {parameter for parameter, count in places.items() if count > 1}


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The direct children with parameters. A list or dict of modules, which has no forward, becomes its children."""
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
    """Make every block discard its activations in the forward pass and recompute them in the backward pass."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def num_checkpointed(model: nn.Module) -> int:
    """How many modules recompute their activations, judged by their live forward."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    return sum(isinstance(forward, partial) and forward.func is checkpoint for forward in forwards)
