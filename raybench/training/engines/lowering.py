"""`mixed_precision: cast`: what is kept in the lower type, in every arm alike.

Parameters are lowered. Buffers keep their type (a rotary embedding's frequencies are useless in bf16), except running
statistics, because torch's BatchNorm needs them in the type of its weights. DeepSpeed does this since 0.19 and FSDP2
always; lowered statistics let BatchNorm run under both.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def lower_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert floating-point parameters to `dtype` in place; shared parameters stay shared."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def lower_statistics(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Convert running statistics to `dtype`, in those modules that have them."""
    for module in modules:
        if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.data = module.running_mean.data.to(dtype)
            module.running_var.data = module.running_var.data.to(dtype)
