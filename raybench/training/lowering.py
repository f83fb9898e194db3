"""`mixed_precision: cast`: what is kept in the lower type, the same in every arm.

Parameters are; buffers keep the type that they were built with (a rotary embedding's frequencies lose what they are
for in bf16), but for running statistics, which torch's BatchNorm takes in its weights' type alone. This is what
DeepSpeed does since 0.19 and FSDP2 does always, and the statistics make BatchNorm run under both.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def lower_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Floating-point parameters in `dtype`, in place: a parameter that two modules share stays one."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def lower_statistics(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Running statistics in `dtype`, in those of the modules that have any."""
    for module in modules:
        if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.data = module.running_mean.data.to(dtype)
            module.running_var.data = module.running_var.data.to(dtype)
