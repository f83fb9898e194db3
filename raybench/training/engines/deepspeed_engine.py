"""DeepSpeed: any config passes through; `declare.deepspeed_config` adds to it, and the result is recorded."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import torch
from torch import nn

from raybench.declare.arms import DeepSpeedArm
from raybench.declare.deepspeed_config import added_config, deepspeed_config, offloads, resolve
from raybench.declare.setting import LossScale, Schedule, Setting
from raybench.errors import InvalidConfig, NotReadable, Unsupported
from raybench.training import memory
from raybench.training.engines.deepspeed_ops import build_communication, build_operators
from raybench.training.engines.lowering import lower_statistics
from raybench.training.engines.optimizers import (
    StepCounter,
    build_optimizer,
    build_scheduler,
    optimizer_facts,
    schedule_facts,
    state_dtypes,
    state_tensors,
    stepped_tensors,
)
from raybench.training.facts import dtype_names
from raybench.training.gradients import Gradients
from raybench.training.tasks.trees import cast

_BUCKETS = ("reduce_bucket_size", "allgather_bucket_size")


def fit_buckets(config: dict[str, Any], num_parameters: int) -> dict[str, Any]:
    """Communication buckets no larger than the model, unless the config names them: their default is 2 GB each, which a
    CPU pays for in every leg. Returns what was added to the config's zero_optimization.

    Sizes are even numbers of elements, because ZeRO 1 and 2 require it.
    """
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    names = [name for name in _BUCKETS if stage and name not in zero and (name == "reduce_bucket_size" or stage < 3)]
    added = dict.fromkeys(names, max(num_parameters + num_parameters % 2, 2))
    zero.update(added)
    return added


def refuse(config: dict[str, Any], setting: Setting, model: nn.Module) -> None:
    """Raise Unsupported for configs that DeepSpeed 0.19.8 accepts but then fails at or computes something else for."""
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    many = next((name for name, parameter in model.named_parameters() if parameter.dim() > 2), None)
    if zero.get("zenflow") and many is not None:
        raise Unsupported(f"ZenFlow chooses columns of matrices, and {many} has more dimensions, as convolutions have")
    if setting.optimizer.name == "lamb" and stage and "optimizer" not in config:
        raise Unsupported(
            "LAMB under ZeRO: its trust ratio belongs to one parameter tensor, and ZeRO hands the optimizer flat "
            "partitions of all of them"
        )
    if setting.channels_last and stage:
        raise Unsupported("channels_last: ZeRO flattens the parameters into one buffer, where their strides are lost")
    autocast = config.get("torch_autocast", {})
    scaled = autocast.get("enabled") and autocast.get("dtype") in ("float16", "fp16", "half", "torch.float16")
    if scaled and setting.loss_scale != LossScale():
        raise Unsupported("loss_scale: DeepSpeed's torch_autocast has torch's defaults only; use mixed_precision: cast")
    if scaled and setting.gradient_clipping and stage:
        raise Unsupported("fp16 by torch_autocast with clipping: ZeRO clips the gradients before they are unscaled")


def _is_lowered(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a module's weights are in `dtype`; not where the config keeps them in fp32 (`keep_in_fp32_modules`)."""
    weight = getattr(module, "weight", None)
    return not isinstance(weight, torch.Tensor) or weight.dtype == dtype


# DeepSpeed's exceptions while reading a config that it rejects.
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError)


def refusal(error: Exception) -> str:
    """A refusal by DeepSpeed in one line, with the source line that raised it where the message says too little."""
    words = " ".join(str(error).split())
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}: {frame.line}"
    if isinstance(error, (AttributeError, KeyError, TypeError, IndexError)) or not words:
        return f"{type(error).__name__}: {words} ({place})" if words else f"{type(error).__name__} at {place}"
    return f"{type(error).__name__}: {words}"


class DeepSpeedEngine:
    """A DeepSpeed engine around the model. The config's optimizer and schedule replace the setting's."""

    def __init__(self, arm: DeepSpeedArm, setting: Setting, model: nn.Module, device: torch.device) -> None:
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.model = model
        self.workers = setting.workers
        # For an arm with its own DeepSpeed version, this process is the first to know the config's keys.
        if problems := resolve(arm, setting).problems:
            raise InvalidConfig("; ".join(f"{'.'.join(problem.place)}: {problem.words}" for problem in problems))
        self.config = deepspeed_config(arm, setting)
        refuse(self.config, setting, model)
        build_communication()
        build_operators(self.config, setting)  # mostly built before the legs; here operators that cannot be built raise
        self.added = added_config(arm, setting)
        if device.type == "cpu":
            buckets = fit_buckets(self.config, sum(parameter.numel() for parameter in model.parameters()))
            self.added |= {"zero_optimization": buckets} if buckets else {}
        optimizer = None
        if "optimizer" not in self.config:
            offloaded = offloads(self.config, "optimizer")
            optimizer = build_optimizer(setting.optimizer, model.parameters(), offloaded=offloaded)
        scheduled = setting.schedule != Schedule()
        if setting.channels_last:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        try:
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                config=self.config,
                lr_scheduler=(lambda basic: build_scheduler(setting.schedule, basic)) if scheduled else None,
                dist_init_required=False,
            )
            if setting.channels_last:  # after its broadcast of the weights, which gloo does not support in this format
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            deepcompile = self.config.get("compile", {}).get("deepcompile")
            if setting.compile or deepcompile:
                self.engine.compile()
            if deepcompile and not self.engine.is_deepcompile_active():
                raise NotImplementedError("DeepCompile fell back to torch's compiler")
        except NotImplementedError as error:
            raise Unsupported(f"DeepSpeed: {error}") from error
        except RuntimeError as error:
            if not str(error).startswith(("Error building extension", "Unable to JIT load")):
                raise
            raise Unsupported(f"DeepSpeed: an operator of its own cannot be built: {error}") from error
        except _REFUSALS as error:
            raise InvalidConfig(f"DeepSpeed: {refusal(error)}") from error
        except Exception as error:
            if not type(error).__module__.startswith("deepspeed"):
                raise
            raise InvalidConfig(f"DeepSpeed: {refusal(error)}") from error
        self.basic = self.engine.basic_optimizer
        self.counter = StepCounter(self.basic)
        # Unmanaged, each `step` ends an accumulation. Older versions are always managed.
        self.managed = bool(getattr(self.engine, "managed_gradient_accumulation", lambda: True)())
        self.initial_scale = self._scale()
        low_precision, _ = self.engine.get_data_types()
        self.input_dtype = low_precision if low_precision != torch.float32 else None
        if self.input_dtype is not None:
            lower_statistics((m for m in model.modules() if _is_lowered(m, self.input_dtype)), self.input_dtype)

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        inputs, named = cast((inputs, named), self.input_dtype)
        return self.engine(*inputs, **named)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self.engine.backward(loss)
        if not last and self.managed:
            self.engine.step()  # counts the micro-batch; steps the optimizer only at the boundary

    def step(self) -> None:
        self.engine.step()

    def gradients(self) -> Gradients:
        if not self.managed:
            raise NotReadable("managed_gradient_accumulation: false: DeepSpeed averages the gradients inside its step")
        scale = self._scale() or 1.0
        if not self.engine.zero_optimization():
            flat = getattr(self.optimizer, "fp32_groups_gradients_flat", None)  # of BF16_Optimizer
            whole = flat or [parameter.grad for parameter in self.model.parameters()]
            return Gradients([gradient for gradient in whole if gradient is not None], sharded=False, scale=scale)
        # ZeRO-1 sums in the config's grad_accum_dtype, and passes the sum on in another type.
        apart = getattr(self.optimizer, "use_grad_accum_attribute", False)
        dtypes = frozenset({self.optimizer.gradient_accumulation_dtype} if apart else ())
        return Gradients(self._gradient_partitions(), sharded=True, scale=scale, added_up_in=dtypes)

    def _gradient_partitions(self) -> list[torch.Tensor]:
        """This rank's part of ZeRO's gradients; over all ranks each element occurs once. Raises NotReadable."""
        mics = getattr(self.engine._config.zero_config, "mics_shard_size", -1)
        if getattr(self.optimizer, "zenflow", False) or mics > 0:
            raise NotReadable("under ZenFlow and MiCS the ranks' parts of the gradients are not one partition of them")
        stage = self.engine.zero_optimization_stage()
        if getattr(self.optimizer, "offload_optimizer" if stage == 3 else "cpu_offload", False):
            parts = [weight.grad for weight in self._master_weights()]
        elif stage == 3:
            parts = [getattr(self.optimizer, "grad_partitions_flat_buffer", None)]
        else:
            partitions = self.optimizer.averaged_gradients.values()
            parts = [part for partition in partitions for part in partition or (None,)]
        if not parts or any(part is None for part in parts):
            raise NotReadable(f"{type(self.optimizer).__name__} holds no averaged gradients before its step")
        return [part for part in parts if part is not None and not getattr(part, "_zero_padding", False)]

    def checksum(self) -> float:
        # ZeRO-3 keeps this rank's share of a parameter in ds_tensor.
        return memory.checksum(getattr(parameter, "ds_tensor", parameter) for parameter in self.model.parameters())

    def held(self) -> dict[str, Any]:
        # ZeRO-3 keeps this rank's share of a parameter in ds_tensor, and for persistent parameters also the whole.
        shares = (getattr(parameter, "ds_tensor", None) for parameter in self.model.parameters())
        return {
            "parameters": [
                *self.model.parameters(),
                *self.model.buffers(),
                *(share for share in shares if share is not None),
            ],
            "gradients": self._gradients(),
            "master_weights": self._master_weights(),
            "optimizer_state": state_tensors(self.basic),
        }

    def _gradients(self) -> list[torch.Tensor] | None:
        """The gradients in every place where DeepSpeed keeps them between backward and step."""
        places = [parameter.grad for parameter in self.model.parameters()]
        places += getattr(self.optimizer, "fp32_groups_gradients_flat", ())  # of BF16_Optimizer
        places.append(getattr(self.optimizer, "grad_partitions_flat_buffer", None))  # ZeRO-3
        for partition in getattr(self.optimizer, "averaged_gradients", {}).values():  # ZeRO 1 and 2
            places += partition or ()
        places += [weight.grad for weight in self._master_weights()]  # ZeRO with an offloaded optimizer
        return [place for place in places if place is not None] or None

    def facts(self) -> dict[str, Any]:
        engine = self.engine
        steps, skipped = self._steps()
        facts = {
            "global_batch": engine.train_batch_size(),
            "micro_batch": engine.train_micro_batch_size_per_gpu(),
            "accumulation": engine.gradient_accumulation_steps(),
            "optimizer": optimizer_facts(self.basic),
            "optimizer_steps": steps,
            "lr_schedule": schedule_facts(engine.lr_scheduler, self.basic),
            "gradient_clipping": float(engine.gradient_clipping()),
            "master_dtype": dtype_names(tensor.dtype for tensor in self._master_weights()),
            "optimizer_state_dtype": dtype_names(state_dtypes(self.basic)),
            "loss_scale": self.initial_scale,
            "skipped_steps": skipped,
            "buffer_broadcasts": False,
            "informative": {
                "wrapper": type(engine).__name__,
                "zero_stage": int(engine.zero_optimization_stage()),
                "overlap_comm": engine.zero_overlap_comm() if engine.zero_optimization_stage() else None,
                "optimizer_wrapper": type(self.optimizer).__name__,
                "communication_backend": engine.dist_backend,
                "deepspeed_config": self.config,
                "added_by_raybench": self.added,
            },
        }
        if self.workers > 1:
            facts["communication_dtype"] = self._communication_dtype()
        return facts

    def _scaler(self) -> torch.amp.GradScaler | None:
        """The torch GradScaler that DeepSpeed uses under torch_autocast with float16."""
        scaler: torch.amp.GradScaler | None = self.engine.torch_autocast_z0_gradscaler or getattr(
            self.optimizer, "torch_autocast_gradscaler", None
        )
        return scaler

    def _scale(self) -> float | None:
        """The current loss scale; None where the loss is not scaled."""
        scaler = self._scaler()
        if scaler is not None:
            return float(scaler.get_scale())
        if not self.engine.fp16_enabled():
            return None
        return float(getattr(self.optimizer, "cur_scale", 0) or self.optimizer.loss_scale)

    def _steps(self) -> tuple[int, int]:
        """Optimizer steps taken, and steps skipped because of an overflow."""
        whole = int(self.engine.global_steps)
        if self._scaler() is not None:  # DeepSpeed does not count the steps that torch's scaler skips
            return self.counter.taken, whole - self.counter.taken
        skipped = int(self.engine.skipped_steps)
        return whole - skipped, skipped

    def _communication_dtype(self) -> str:
        from deepspeed.runtime.torch_autocast import get_all_comm_dtypes

        if self.engine.torch_autocast_enabled() and self.engine.zero_optimization_stage():
            return dtype_names(get_all_comm_dtypes(self.model.parameters()))
        return dtype_names([self.engine.communication_data_type])

    def _master_weights(self) -> list[torch.Tensor]:
        """The tensors that the optimizer steps on this rank; ZeRO-3 keeps them outside its parameter groups."""
        partitions = getattr(self.optimizer, "fp32_partitioned_groups_flat", None)
        return partitions or stepped_tensors(self.basic)

    def destroy(self) -> None:
        from deepspeed.runtime import torch_autocast

        self.counter.remove()
        self.engine.destroy()
        # Left set, it would give the next engine in this process a gradient scaler, whatever its precision.
        torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
        torch_autocast.TORCH_AUTOCAST_DTYPE = None
