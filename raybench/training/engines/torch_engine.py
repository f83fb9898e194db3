"""PyTorch as it is: plain in one process, DistributedDataParallel in several."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raybench.space import Setting, TorchArm
from raybench.training.engines import Unsupported
from raybench.training.optimizers import build_optimizer, optimizer_facts

_AUTOCAST = {"bf16": torch.bfloat16}


class TorchEngine:
    """`torch.optim` on the module, wrapped in DistributedDataParallel where there is more than one worker."""

    def __init__(self, arm: TorchArm, setting: Setting, model: nn.Module, device: torch.device) -> None:
        if setting.precision == "fp16":
            raise Unsupported("the torch engine has no fp16 with loss scaling yet; use precision: bf16")
        self.model = model
        self.accumulation = setting.accumulation
        self.clipping = setting.gradient_clipping
        self.device_type = device.type
        self.autocast_dtype = _AUTOCAST.get(setting.precision)
        self.optimizer = build_optimizer(setting.optimizer, model.parameters())
        self.wrapped: nn.Module = model
        self.ddp: DistributedDataParallel | None = None
        if setting.workers > 1:
            device_ids = [device.index] if device.type == "cuda" else None
            self.ddp = DistributedDataParallel(model, device_ids=device_ids, forward_sync_buffers=arm.broadcast_buffers)
            self.wrapped = self.ddp

    def forward(self, images: torch.Tensor, *, last: bool) -> torch.Tensor:
        if self.ddp is not None and not last:
            with self.ddp.no_sync():
                return self._forward(images)
        return self._forward(images)

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.autocast_dtype is None:
            logits: torch.Tensor = self.wrapped(images)
            return logits
        with torch.autocast(self.device_type, dtype=self.autocast_dtype):
            logits = self.wrapped(images)
        return logits

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        (loss / self.accumulation if self.accumulation > 1 else loss).backward()

    def step(self) -> None:
        if self.clipping:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clipping)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradient_norm(self) -> float:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def checksum(self) -> float:
        return float(sum(parameter.detach().double().abs().sum() for parameter in self.model.parameters()))

    def facts(self) -> dict[str, Any]:
        buffers = any(True for _ in self.model.buffers())
        return {
            "optimizer": optimizer_facts(self.optimizer),
            "parameter_dtype": _dtypes(self.model.parameters()),
            "master_dtype": _dtypes(self.model.parameters()),
            "autocast": str(self.autocast_dtype).removeprefix("torch.") if self.autocast_dtype else "off",
            "gradient_clipping": float(self.clipping),
            "buffer_broadcasts": bool(buffers and self.ddp is not None and self.ddp.broadcast_buffers),
            "informative": {"wrapper": type(self.wrapped).__name__ if self.ddp is not None else "none"},
        }

    def destroy(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        self.ddp = None
        self.wrapped = self.model


def _dtypes(parameters: Any) -> str:
    return ",".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}))
