"""Lets torchvision and timm import beside a torch build that torchvision's C++ operators do not fit.

The PyPI torchvision for Linux is built against CUDA. Beside a CPU torch its operators do not load, and the import fails
with "operator torchvision::nms does not exist". Image classification needs none of them, so declaring the two schemas
that torchvision's Python code refers to is enough.
"""

from __future__ import annotations

from typing import Any

import torch

_LIBRARY: torch.library.Library | None = None  # declarations live as long as their Library
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing() -> None:
    """Declare torchvision's operators where they are missing; call before importing torchvision or timm."""
    global _LIBRARY
    if _LIBRARY is not None or _operators_load():
        return
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _LIBRARY.define(f"{name}{_SCHEMA}")


def import_v2() -> Any:
    """The module torchvision.transforms.v2."""
    declare_missing()
    from torchvision.transforms import v2

    return v2


def import_datasets() -> Any:
    """The module torchvision.datasets."""
    declare_missing()
    from torchvision import datasets

    return datasets


def _operators_load() -> bool:
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # importing it will report that it is not installed
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")
