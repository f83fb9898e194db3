"""What a leg really was, read off the live objects: the ground on which arms are called comparable.

Every key but `informative` must be equal in the arms of a setting, unless the space declares it to differ.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from raybench.plan import Leg
from raybench.training.data import Batch, Batches
from raybench.training.ranks import Ranks


def tensors_hash(*tensors: torch.Tensor) -> str:
    """16 hexadecimal digits that name the tensors' bytes and shapes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().cpu().contiguous()
        digest.update(str((data.dtype, tuple(data.shape))).encode())
        digest.update(data.view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return digest.hexdigest()[:16]


def weights_hash(model: nn.Module) -> str:
    """A hash of the model's parameters and buffers."""
    return tensors_hash(
        *(value for value in model.state_dict().values() if isinstance(value, torch.Tensor) and value.dim())
    )


def model_facts(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """What the model is before an engine takes it."""
    parameters = list(model.parameters())
    channels_last = any(p.dim() == 4 and not p.is_contiguous() for p in parameters)
    return {
        "initial_weights": weights_hash(model),
        "memory_format": "channels_last" if channels_last else "contiguous",
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "num_parameter_tensors": len(parameters),
        "model_options": options,
    }


def run_facts(leg: Leg, batches: Batches, first: Batch, ranks: Ranks) -> dict[str, Any]:
    """Batches, data order and the process's switches, as they are on every rank."""
    setting = leg.setting
    images = first[0]
    assert images.shape[0] * setting.accumulation * ranks.world == setting.batch_size, images.shape
    return {
        "global_batch": images.shape[0] * setting.accumulation * ranks.world,
        "micro_batch": images.shape[0],
        "accumulation": setting.accumulation,
        "workers": ranks.world,
        "image_shape": list(images.shape[1:]),
        "samples_per_epoch_per_rank": batches.samples_per_epoch,
        "shuffle": batches.sampler.shuffle,
        "drop_last": batches.loader.drop_last,
        "sampler_sets_epoch": batches.epochs_begun > 0,
        "loader_workers": batches.loader.num_workers,
        "pin_memory": batches.loader.pin_memory,
        "first_batch": [tensors_hash(*rank) for rank in ranks.gather(tuple(tensor.cpu() for tensor in first))],
        "threads": torch.get_num_threads(),
        "device": ranks.device.type,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "compiled": False,
        "activation_checkpointing": False,
        "lr_schedule": "constant",
    }
