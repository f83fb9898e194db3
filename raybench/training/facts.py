"""What a leg really was, read from the live objects: the basis for calling arms comparable.

Every key except `informative` must be equal in the arms of a setting, unless the space declares it to differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import xxhash
from torch import nn

from raybench.declare.plan import Leg
from raybench.training.loader import Batches
from raybench.training.ranks import Ranks
from raybench.training.tasks import trees
from raybench.training.tasks.task import Task
from raybench.training.tasks.trees import Tree


def dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """The distinct types by name, as `float32` or `bfloat16,float32`; empty where there are none."""
    return ",".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))


def tensors_hash(*tensors: torch.Tensor) -> str:
    """16 hexadecimal digits that identify the tensors' bytes and shapes.

    A checksum, not a signature: a cryptographic hash reads weights at a tenth of the speed, in every leg.
    """
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        data = tensor.detach().cpu().contiguous()
        digest.update(str((data.dtype, tuple(data.shape))).encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """A hash of the model's parameters and buffers."""
    return tensors_hash(
        *(value for value in model.state_dict().values() if isinstance(value, torch.Tensor) and value.dim())
    )


def model_facts(model: nn.Module, task: Task) -> dict[str, Any]:
    """Facts about the model before an engine takes it."""
    parameters = list(model.parameters())
    facts = {
        "initial_weights": weights_hash(model),
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "num_parameter_tensors": len(parameters),
        "num_trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "num_trainable_tensors": sum(p.requires_grad for p in parameters),
        "model_options": task.model_options,
    }
    return {**facts, **task.work_facts(model, facts)}


def run_facts(leg: Leg, task: Task, batches: Batches, first: Tree, ranks: Ranks) -> dict[str, Any]:
    """Facts about batches, data order and process-wide switches, equal on every rank."""
    setting = leg.setting
    micro_batch = trees.batch_size(first)
    assert micro_batch * setting.accumulation * ranks.world == setting.global_batch, micro_batch
    return {
        "global_batch": micro_batch * setting.accumulation * ranks.world,
        "micro_batch": micro_batch,
        "accumulation": setting.accumulation,
        "workers": ranks.world,
        **task.batch_facts(first),
        "dataset_digest": task.data_digest(),
        "samples_per_epoch_per_rank": batches.samples_per_epoch,
        "shuffle": batches.sampler.shuffle,
        "drop_last": batches.loader.drop_last,
        "sampler_sets_epoch": batches.epochs_begun > 0,
        "loader_workers": batches.loader.num_workers,
        "pin_memory": batches.loader.pin_memory,
        "prefetch_factor": batches.loader.prefetch_factor,
        "persistent_workers": batches.loader.persistent_workers,
        "first_batch": ranks.gather(tensors_hash(*trees.tensors(first))),
        "threads": torch.get_num_threads(),
        "device": ranks.device.type,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def for_an_epoch(facts: dict[str, Any], num_epochs: int) -> dict[str, Any]:
    """A leg's facts for whole epochs: values that grow with the number of epochs become informative, or are per epoch.

    Arms that reach a target after different numbers of epochs are the same experiment.
    """
    steps, skipped = facts["optimizer_steps"], facts["skipped_steps"]
    schedule = {key: value for key, value in facts["lr_schedule"].items() if key != "lr"}
    found = {
        **facts,
        "lr_schedule": schedule,
        "steps_per_epoch": (steps + skipped) / num_epochs,
        "informative": {
            **facts["informative"],
            "epochs": num_epochs,
            "optimizer_steps": steps,
            "skipped_steps": skipped,
            "last_lr": facts["lr_schedule"]["lr"],
        },
    }
    del found["optimizer_steps"], found["skipped_steps"]
    return found


class ForwardSeen:
    """Records what layers with weights see in a forward pass: types and strides, and whether autocast is on.

    Used only in a leg's first step, inside the engine, where sharded weights are whole and cast ones are cast. Compiled
    models are not examined, because hooks would be compiled too.
    """

    def __init__(self, model: nn.Module, device_type: str) -> None:
        self._device_type = device_type
        self._dtypes: set[torch.dtype] = set()
        self._autocast: set[str] = set()
        self._formats: set[str] = set()
        layers = [] if is_compiled(model) else [m for m in model.modules() if _has_weight(m)]
        self._handles = [layer.register_forward_pre_hook(self._look) for layer in layers]

    def _look(self, layer: nn.Module, _: Any) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        self._dtypes.add(weight.dtype)
        if not torch.is_autocast_enabled(self._device_type):
            self._autocast.add("off")
        else:
            self._autocast.add(dtype_names([torch.get_autocast_dtype(self._device_type)]))
        if weight.dim() == 4:
            orders = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}
            fits = [name for order, name in orders.items() if weight.is_contiguous(memory_format=order)]
            if len(fits) < 2:  # a 1x1 kernel has both formats
                self._formats.add(fits[0] if fits else "strided")

    def facts(self) -> dict[str, Any]:
        """The recorded facts; keys that could not be observed are missing."""
        seen = {
            "parameter_dtype": dtype_names(self._dtypes),
            "autocast": ",".join(sorted(self._autocast)),
            "memory_format": ",".join(sorted(self._formats)),
        }
        return {name: value for name, value in seen.items() if value}

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile was applied to the model or a part of it."""
    return any(module._compiled_call_impl is not None for module in model.modules())


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module._parameters.get("weight"), torch.Tensor)
