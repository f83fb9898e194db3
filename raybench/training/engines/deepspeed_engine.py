"""DeepSpeed: any config passes through; what raybench adds to it is in one place, and recorded."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn

from raybench.space import DeepSpeedArm, Setting
from raybench.training.engines import InvalidConfig, Unsupported
from raybench.training.optimizers import build_optimizer, optimizer_facts

_NEVER = 2**31 - 1


def full_config(arm: DeepSpeedArm, setting: Setting, num_parameters: int, device_type: str) -> dict[str, Any]:
    """The arm's DeepSpeed config with what raybench adds.

    From the setting, and the same in every arm: batch sizes, and gradient clipping written out, because
    DeepSpeed 0.19.8 clips at norm 1.0 where its config says nothing. For a fair clock: no timers, no monitor,
    no printing (the throughput timer synchronizes twice a step by default). On a CPU: communication buckets no
    larger than the model, where the config does not name them (their default is 2 GB each).
    """
    config = copy.deepcopy(arm.config)
    config["train_batch_size"] = setting.batch_size
    config["train_micro_batch_size_per_gpu"] = setting.micro_batch
    config["gradient_accumulation_steps"] = setting.accumulation
    config["gradient_clipping"] = setting.gradient_clipping
    config.setdefault("steps_per_print", _NEVER)
    config.setdefault("wall_clock_breakdown", False)
    config.setdefault("timers", {"throughput": {"enabled": False}})
    config.setdefault("zero_allow_untested_optimizer", True)
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    if setting.precision == "bf16" and not any(key in config for key in ("bf16", "fp16", "torch_autocast")):
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    zero = config.get("zero_optimization")
    if device_type == "cpu" and isinstance(zero, dict) and zero.get("stage", 0):
        for key in _BUCKETS:
            if key == "reduce_bucket_size" or zero["stage"] < 3:
                zero.setdefault(key, max(num_parameters, 1))
    return config


_BUCKETS = ("reduce_bucket_size", "allgather_bucket_size")


class DeepSpeedEngine:
    """A DeepSpeed engine around the model, with the setting's torch optimizer unless the config names its own."""

    def __init__(self, arm: DeepSpeedArm, setting: Setting, model: nn.Module, device: torch.device) -> None:
        if setting.precision == "fp16" and not any(key in arm.config for key in ("fp16", "torch_autocast")):
            raise Unsupported("precision: fp16 needs an fp16 section in this arm's DeepSpeed config")
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.config = full_config(arm, setting, num_parameters, device.type)
        self.model = model
        own_optimizer = "optimizer" in self.config
        optimizer = None if own_optimizer else build_optimizer(setting.optimizer, model.parameters())
        try:
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=self.config, dist_init_required=False
            )
        except (ValueError, TypeError, KeyError, AssertionError, deepspeed.DeepSpeedConfigError) as error:
            raise InvalidConfig(f"DeepSpeed: {type(error).__name__}: {error}") from error

    def forward(self, images: torch.Tensor, *, last: bool) -> torch.Tensor:
        logits: torch.Tensor = self.engine(images)
        return logits

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self.engine.backward(loss)
        if not last:
            self.engine.step()  # counts the micro-batch; steps the optimizer at the boundary only

    def step(self) -> None:
        self.engine.step()

    def gradient_norm(self) -> float:
        from deepspeed.utils import safe_get_full_grad

        gradients = [safe_get_full_grad(parameter) for parameter in self.model.parameters()]
        return float(nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]))

    def checksum(self) -> float:
        # ZeRO-3 keeps this rank's share of a parameter in ds_tensor.
        shares = (getattr(parameter, "ds_tensor", parameter) for parameter in self.model.parameters())
        return float(sum(share.detach().double().abs().sum() for share in shares))

    def facts(self) -> dict[str, Any]:
        engine = self.engine
        basic = getattr(self.optimizer, "optimizer", self.optimizer)
        autocast = engine.torch_autocast_enabled()
        return {
            "optimizer": optimizer_facts(basic),
            "parameter_dtype": _dtype_names(parameter.dtype for parameter in self.model.parameters()),
            "master_dtype": _dtype_names(tensor.dtype for tensor in self._master_weights(basic)),
            "autocast": str(engine.torch_autocast_dtype()).removeprefix("torch.") if autocast else "off",
            "gradient_clipping": float(engine.gradient_clipping()),
            "buffer_broadcasts": False,
            "informative": {
                "wrapper": type(engine).__name__,
                "zero_stage": engine.zero_optimization_stage(),
                "overlap_comm": engine.zero_overlap_comm() if engine.zero_optimization_stage() else None,
                "zero_optimizer": type(self.optimizer).__name__,
                "communication_backend": engine.dist_backend,
                "deepspeed_config": self.config,
            },
        }

    def _master_weights(self, basic: torch.optim.Optimizer) -> list[torch.Tensor]:
        """The tensors that the optimizer really steps on this rank: ZeRO-3 keeps them apart from its groups."""
        partitions = getattr(self.optimizer, "fp32_partitioned_groups_flat", None)
        return partitions or [parameter for group in basic.param_groups for parameter in group["params"]]

    def destroy(self) -> None:
        self.engine.destroy()


def _dtype_names(dtypes: Any) -> str:
    return ",".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))
