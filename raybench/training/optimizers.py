"""The optimizer of a setting: the same class, hyper-parameters and kernel under every engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from raybench.space import Adam, Sgd

_CLASSES: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(choice: Sgd | Adam, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """A torch optimizer with every hyper-parameter written out and the `foreach` kernel chosen explicitly."""
    options: dict[str, Any] = choice.model_dump(exclude={"name"})
    optimizer: torch.optim.Optimizer = _CLASSES[choice.name](parameters, foreach=True, fused=False, **options)
    return optimizer


_COMPARED = ("lr", "weight_decay", "betas", "eps", "momentum", "dampening", "nesterov", "amsgrad", "maximize")


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the live optimizer's parameter groups say: class, kernel, hyper-parameters (of all groups alike)."""
    groups = [{key: _plain(group[key]) for key in _COMPARED if key in group} for group in optimizer.param_groups]
    first = groups[0]
    differing = sorted(key for group in groups for key in group if group[key] != first.get(key))
    kind = type(optimizer)
    library = kind.__module__.partition(".")[0]
    facts = {"class": kind.__name__, "kernel": _kernel(optimizer, library), **first}
    return {**facts, **{key: [group.get(key) for group in groups] for key in differing}}


def _kernel(optimizer: torch.optim.Optimizer, library: str) -> str:
    if library != "torch":
        return f"{library}.{type(optimizer).__name__}"
    group = optimizer.param_groups[0]
    if group.get("fused"):
        return "fused"
    return "foreach" if group.get("foreach") else "for-loop"


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    return list(value) if isinstance(value, tuple) else value
