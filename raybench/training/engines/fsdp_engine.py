"""FSDP2: `fully_shard` on each block of the model and on the rest, with torch's own optimizers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from raybench.declare.setting import Setting
from raybench.errors import InvalidConfig, Unsupported
from raybench.training.engines.lowering import lower_statistics
from raybench.training.engines.optimizers import build_optimizer
from raybench.training.engines.torch_engine import DTYPES, TorchEngine
from raybench.training.facts import dtype_names
from raybench.training.models.layers import blocks_of

_REDUCE_DTYPES = {**DTYPES, "fp32": torch.float32}


class FsdpEngine(TorchEngine):
    """The torch engine with another wrapper: parameters, gradients and optimizer state are sharded over ranks."""

    def _wrap(self, arm: Any, setting: Setting, device: torch.device) -> nn.Module:
        if arm.cpu_offload and device.type == "cpu":
            raise Unsupported("cpu_offload: the model is on the CPU already")
        self.reduce_dtype = _REDUCE_DTYPES.get(arm.reduce_dtype)
        if self.input_dtype is not None:  # sharded weights stay fp32 and are gathered in the lower type
            lower_statistics(self.model.modules(), self.input_dtype)
        policy = MixedPrecisionPolicy(param_dtype=self.input_dtype, reduce_dtype=self.reduce_dtype)
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (setting.workers,)),
            "mp_policy": policy,
            "reshard_after_forward": arm.reshard_after_forward,
            "offload_policy": CPUOffloadPolicy() if arm.cpu_offload else OffloadPolicy(),
        }
        blocks = blocks_of(self.model) if arm.per_block else []
        self.num_blocks = len(blocks)
        try:
            for block in blocks:
                if setting.compile:
                    block.compile()
                fully_shard(block, **options)
            if setting.compile and not blocks:
                self.model.compile()
            fully_shard(self.model, **options)
        except NotImplementedError as error:
            raise Unsupported(f"FSDP2: {error}") from error
        except ValueError as error:
            raise InvalidConfig(f"FSDP2: {error}") from error
        return self.model

    def _optimizer(self, arm: Any, setting: Setting) -> torch.optim.Optimizer:
        if setting.optimizer.kernel == "deepspeed":
            raise Unsupported("DeepSpeed's kernels take plain tensors, and FSDP2's parameters are DTensors")
        return build_optimizer(setting.optimizer, self.model.parameters())

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last)
        self.model.set_is_last_backward(last)
        return nullcontext()

    def _wrapper(self) -> str:
        return "fully_shard"

    def _broadcasts_buffers(self) -> bool:
        return False

    def _communication_dtype(self) -> str:
        return dtype_names([self.reduce_dtype or self.input_dtype or torch.float32])

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        facts["informative"]["num_blocks"] = self.num_blocks
        return facts
