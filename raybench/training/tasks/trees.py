"""Batches are trees: a tensor, or a list, tuple or dict of trees. Moves, cuts and hashes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

Tree = Any
"""A tensor, or lists, tuples and dicts of trees; anything else in it is left as it is."""


def tensors(tree: Tree) -> list[torch.Tensor]:
    """The tensors of a tree, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def map_tensors(change: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    """The tree with every tensor changed."""
    return tree_map_only(torch.Tensor, change, tree)


def move(tree: Tree, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Tree:
    """The tree on `device`; `memory_format` applies to images, the tensors with four dimensions."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        order = memory_format if tensor.dim() == 4 else torch.preserve_format
        return tensor.to(device, non_blocking=True, memory_format=order)

    return map_tensors(moved, tree)


def cast(tree: Tree, dtype: torch.dtype | None) -> Tree:
    """The tree with floating-point tensors in `dtype`; unchanged for None."""
    if dtype is None:
        return tree
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, tree)


def first(tree: Tree, count: int) -> Tree:
    """The first `count` samples of a batch."""
    return map_tensors(lambda tensor: tensor[:count], tree)


def batch_size(tree: Tree) -> int:
    """Samples in a batch: the length of its first tensor. Raises ValueError for a batch without tensors."""
    found = tensors(tree)
    if not found or not found[0].dim():
        raise ValueError("a batch holds no tensor whose first dimension counts samples")
    return len(found[0])
