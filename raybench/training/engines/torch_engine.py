"""Plain PyTorch: unwrapped in one process, DistributedDataParallel in several."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from raybench.declare.arms import FsdpArm, TorchArm
from raybench.declare.setting import Setting
from raybench.errors import Unsupported
from raybench.training import memory
from raybench.training.engines.lowering import lower_parameters, lower_statistics
from raybench.training.engines.optimizers import (
    StepCounter,
    build_optimizer,
    build_scheduler,
    optimizer_class,
    optimizer_facts,
    schedule_facts,
    state_dtypes,
    state_tensors,
    stepped_tensors,
)
from raybench.training.facts import dtype_names
from raybench.training.gradients import Gradients
from raybench.training.tasks.trees import cast

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_HOOKS: dict[str, Any] = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
_HOOK_DTYPES = {"fp16_compress_hook": "float16", "bf16_compress_hook": "bfloat16"}


class TorchEngine:
    """`torch.optim` on the module, wrapped in DistributedDataParallel where there is more than one worker."""

    def __init__(self, arm: TorchArm | FsdpArm, setting: Setting, model: nn.Module, device: torch.device) -> None:
        low = DTYPES.get(setting.precision)
        self.model = model
        self.workers = setting.workers
        self.accumulation = setting.accumulation
        self.clipping = setting.gradient_clipping
        self.device_type = device.type
        self.autocast_dtype = low if setting.mixed_precision == "autocast" else None
        self.input_dtype = low if setting.mixed_precision == "cast" else None
        self.wrapped = self._wrap(arm, setting, device)
        self.optimizer = self._optimizer(arm, setting)
        self.scheduler = build_scheduler(setting.schedule, self.optimizer)
        self.scaler: torch.amp.GradScaler | None = None
        if setting.precision == "fp16":
            scale = setting.loss_scale
            self.scaler = torch.amp.GradScaler(
                device.type, init_scale=scale.initial, growth_interval=scale.growth_interval or 2**31 - 1
            )
        self.initial_scale = self.scaler.get_scale() if self.scaler else None
        self.fixed_scale = None if setting.loss_scale.growth_interval else self.initial_scale
        self.skipped_steps = 0
        self.counter = StepCounter(self.optimizer)

    def _wrap(self, arm: Any, setting: Setting, device: torch.device) -> nn.Module:
        if self.input_dtype == torch.float16:
            raise Unsupported("fp16 by cast: torch's GradScaler cannot unscale fp16 gradients; use autocast")
        if self.input_dtype is not None:
            lower_parameters(self.model, self.input_dtype)
            lower_statistics(self.model.modules(), self.input_dtype)
        if setting.compile:
            self.model.compile()
        if setting.workers == 1:
            return self.model
        if arm.static_graph and setting.accumulation > 1:
            raise Unsupported(
                "static_graph: DDP learns the graph in the first backward pass, which accumulation does not synchronize"
            )
        ddp = DistributedDataParallel(
            self.model,
            device_ids=[device.index] if device.type == "cuda" else None,
            forward_sync_buffers=arm.broadcast_buffers,
            gradient_as_bucket_view=arm.gradient_as_bucket_view,
            static_graph=arm.static_graph,
            find_unused_parameters=arm.find_unused_parameters,
            bucket_cap_mb=arm.bucket_cap_mb,
        )
        if arm.communication_hook != "none":
            try:
                ddp.register_comm_hook(dist.group.WORLD, _HOOKS[arm.communication_hook])
            except TypeError as error:
                raise Unsupported(f"communication_hook: {error}") from error
        return ddp

    def _optimizer(self, arm: Any, setting: Setting) -> torch.optim.Optimizer:
        if not arm.zero_redundancy_optimizer:
            return build_optimizer(setting.optimizer, self.model.parameters())
        if setting.workers == 1:
            raise Unsupported("zero_redundancy_optimizer shards over ranks, and there is one worker")
        from torch.distributed.optim import ZeroRedundancyOptimizer  # imported by `engine_class`, before any leg

        kind, options = optimizer_class(setting.optimizer)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return ZeroRedundancyOptimizer(trained, optimizer_class=kind, **options)

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        if self.accumulation == 1:
            return self._output(inputs, named)
        with self._synchronized(last):
            return self._output(inputs, named)

    def _output(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self.autocast_dtype is not None:
            with torch.autocast(self.device_type, dtype=self.autocast_dtype):
                return self.wrapped(*inputs, **named)
        inputs, named = cast((inputs, named), self.input_dtype)
        return self.wrapped(*inputs, **named)

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """With several backwards a step, average gradients over ranks only in the last."""
        if not last and isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        if self.accumulation > 1:
            loss = loss / self.accumulation
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()

    def step(self) -> None:
        if self.scaler is not None:
            skipped = self._scaled_step(self.scaler)
        else:
            if self.clipping:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clipping)
            self.optimizer.step()
            skipped = False
        if self.scheduler is not None and not skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> bool:
        """Take the scaler's step. Returns whether an overflow made it skip the step."""
        if self.clipping:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clipping)
        before = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        skipped = scaler.get_scale() < before
        self.skipped_steps += skipped
        if self.fixed_scale is not None:
            scaler.update(self.fixed_scale)
        return skipped

    def gradients(self) -> Gradients:
        tensors = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        scale = self.scaler.get_scale() if self.scaler else 1.0
        return Gradients(tensors, sharded=any(is_sharded(tensor) for tensor in tensors), scale=scale)

    def checksum(self) -> float:
        return memory.checksum(self.model.parameters())

    def held(self) -> dict[str, Any]:
        basic = getattr(self.optimizer, "optim", self.optimizer)  # ZeroRedundancyOptimizer's own
        return {
            "parameters": [*self.model.parameters(), *self.model.buffers()],
            "gradients": [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None],
            "master_weights": stepped_tensors(basic),
            "optimizer_state": state_tensors(basic),
        }

    def facts(self) -> dict[str, Any]:
        basic = getattr(self.optimizer, "optim", self.optimizer)  # ZeroRedundancyOptimizer's own
        steps = self.counter.taken
        if basic.param_groups[0].get("fused"):
            steps -= self.skipped_steps  # a fused kernel is called anyway, and handles the overflow itself
        facts = {
            "accumulation": self.accumulation,
            "optimizer": optimizer_facts(basic),
            "optimizer_steps": steps,
            "lr_schedule": schedule_facts(self.scheduler, self.optimizer),
            "gradient_clipping": float(self.clipping),
            "master_dtype": dtype_names(tensor.dtype for tensor in stepped_tensors(basic)),
            "optimizer_state_dtype": dtype_names(state_dtypes(basic)),
            "loss_scale": self.initial_scale,
            "skipped_steps": self.skipped_steps,
            "buffer_broadcasts": self._broadcasts_buffers(),
            "informative": {"wrapper": self._wrapper(), "optimizer_wrapper": type(self.optimizer).__name__},
        }
        if self.workers > 1:
            facts["communication_dtype"] = self._communication_dtype()
        return facts

    def _wrapper(self) -> str:
        return type(self.wrapped).__name__ if self.wrapped is not self.model else "none"

    def _broadcasts_buffers(self) -> bool:
        ddp = self.wrapped
        return (
            isinstance(ddp, DistributedDataParallel)
            and any(True for _ in self.model.buffers())
            and bool(ddp.will_sync_module_buffers())
        )

    def _communication_dtype(self) -> str:
        assert isinstance(self.wrapped, DistributedDataParallel)
        hook = self.wrapped._get_ddp_logging_data().get("comm_hook", "")
        if hook:
            return _HOOK_DTYPES.get(hook, str(hook))
        return dtype_names(parameter.dtype for parameter in self.model.parameters() if parameter.requires_grad)

    def destroy(self) -> None:
        self.counter.remove()
        self.optimizer.zero_grad()
        self.optimizer.state.clear()
        self.wrapped = self.model


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank holds only a part of the tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
