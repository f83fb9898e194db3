"""What makes two arms the same experiment: the names of the facts, and where two legs' facts differ.

A leg's facts are a JSON object that describes what the run *was*, read from the live objects. Two arms of a setting
are comparable when every fact that both state is equal. Exceptions are facts that the space declares as different
(`differs: [optimizer, precision]`) and the `informative` part, which is never compared. Facts that only one arm states
do not count, nor do empty texts. No ray or torch here: the training side writes these names, the analysis compares
them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

INFORMATIVE: Final = "informative"

# Every fact that a leg may state, except those under INFORMATIVE.
COMPARED: Final = (
    "initial_weights", "num_parameters", "num_parameter_tensors", "flops_per_image", "flops_per_byte",
    "num_trainable_parameters", "num_trainable_tensors", "flops_per_token", "training_flops_per_sample",
    "sequence_length", "objective", "batch_shapes",
    "model_options", "memory_format", "image_shape", "dataset_digest", "global_batch", "micro_batch", "accumulation",
    "workers",
    "samples_per_epoch_per_rank", "shuffle", "drop_last", "sampler_sets_epoch", "loader_workers", "pin_memory",
    "prefetch_factor", "persistent_workers", "augmentation", "first_batch", "threads", "device", "tf32",
    "cudnn_benchmark", "deterministic", "compiled", "activation_checkpointing", "optimizer", "optimizer_steps",
    "lr_schedule", "gradient_clipping", "parameter_dtype", "buffer_dtype", "gradient_dtype", "master_dtype",
    "optimizer_state_dtype", "communication_dtype", "autocast", "loss_scale", "skipped_steps", "buffer_broadcasts",
    "first_loss", "first_gradient_norm", "timed",
    "steps_per_epoch", "evaluated_samples",  # if a protocol has epochs or evaluates
)  # fmt: skip

_OF_THE_MODEL: Final = (
    "initial_weights", "num_parameters", "num_parameter_tensors", "flops_per_image", "flops_per_byte", "first_loss",
    "first_gradient_norm",
)  # fmt: skip

_DTYPES: Final = (
    "parameter_dtype", "buffer_dtype", "gradient_dtype", "master_dtype", "optimizer_state_dtype", "communication_dtype",
    "autocast",
)  # fmt: skip

# A word under `differs` in a space -> the facts (or dotted prefixes of facts) that it covers.
# A word that is not here covers the fact of that name and everything below it.
DECLARABLE: Final[dict[str, tuple[str, ...]]] = {
    "optimizer": ("optimizer", "optimizer_steps", "lr_schedule"),
    "augmentation": ("first_batch", "first_loss", "first_gradient_norm"),
    "learning_rate": ("optimizer.lr", "lr_schedule"),
    "lr": ("optimizer.lr", "lr_schedule"),
    "weight_decay": ("optimizer.weight_decay", "weight_decay"),
    "momentum": ("optimizer.momentum", "optimizer.nesterov"),
    "kernel": ("optimizer.kernel", "kernel"),
    "precision": (
        "precision",
        "mixed_precision",
        *_DTYPES,
        "loss_scale",
        "skipped_steps",
        "optimizer_steps",
        "tf32",
    ),
    "batch_size": (
        "batch_size",
        "global_batch",
        "micro_batch",
        "accumulation",
        "samples_per_step",
        "samples_per_epoch_per_rank",
        "optimizer_steps",
        "steps_per_epoch",
        "first_batch",
        "first_loss",
        "first_gradient_norm",
    ),
    "accumulation": ("accumulation", "micro_batch", "first_batch", "first_loss", "first_gradient_norm"),
    "workers": (
        "workers",
        "micro_batch",
        "accumulation",
        "samples_per_epoch_per_rank",
        "first_batch",
        "first_loss",
        "first_gradient_norm",
        "threads",
    ),
    "model": ("model", "model_options", "small_images", "image_size", "image_shape", "first_batch", *_OF_THE_MODEL),
    "model_options": ("model_options", *_OF_THE_MODEL),
    "small_images": ("model_options", "image_size", "image_shape", "first_batch", *_OF_THE_MODEL),
    "image_size": ("image_shape", "small_images", "model_options", "first_batch", *_OF_THE_MODEL),
    "dataset": (
        "dataset",
        "dataset_digest",
        "samples_per_epoch_per_rank",
        "optimizer_steps",
        "steps_per_epoch",
        "evaluated_samples",
        "first_batch",
        "first_loss",
        "first_gradient_norm",
    ),
    "mixed_precision": _DTYPES,
    "loss_scale": ("skipped_steps", "optimizer_steps", "lr_schedule"),
    "schedule": ("lr_schedule",),
    "compile": ("compiled",),
    "channels_last": ("memory_format",),
    "communication": ("communication_dtype",),
    "clipping": ("gradient_clipping",),
    "loader": ("loader_workers", "pin_memory", "prefetch_factor", "persistent_workers"),
    "loader_workers": ("persistent_workers", "prefetch_factor"),
    "weights": ("initial_weights", "first_loss", "first_gradient_norm"),
}

# Facts that are sums of rounded numbers: equal within a relative tolerance, by precision.
MEASURED: Final = ("first_loss", "first_gradient_norm")
_EXACT: Final = 1e-9


def measured_tolerance(precision: str, differs: Collection[str] = ()) -> float:
    """Relative tolerance for the first loss and gradient norm: engines sum in different orders.

    Where the precisions are declared to differ, the norms still belong to the same gradients and may differ only by
    rounding; a gradient divided by a loss scale that it was never multiplied by differs by more.
    """
    if {"precision", "mixed_precision"} & set(differs):
        return 0.25
    return 1e-3 if precision == "fp32" else 5e-2


def is_declared(name: str, differs: Collection[str]) -> bool:
    """Whether the space declares a fact, given by its dotted name, as different."""
    return any(
        name == fact or name.startswith(f"{fact}.") for word in differs for fact in (word, *DECLARABLE.get(word, ()))
    )


def differences(
    arm: Mapping[str, Any], baseline: Mapping[str, Any], differs: Collection[str] = (), precision: str = "fp32"
) -> list[tuple[str, Any, Any]]:
    """Facts that should be equal but are not: (dotted name, the arm's value, the baseline's), sorted by name.

    What was timed comes first: where it differs, nothing else matters.
    """
    shared = {name for name in arm if name in baseline and name != INFORMATIVE}
    unequal = (name for name in shared if arm[name] != baseline[name])
    tolerance = measured_tolerance(precision, differs)
    found = [
        difference
        for name in unequal
        for difference in _compare(name, arm[name], baseline[name], tolerance if name in MEASURED else _EXACT)
        if not is_declared(difference[0], differs)
    ]
    return sorted(found, key=lambda difference: (difference[0] != "timed", difference[0]))


def _compare(name: str, arm: Any, baseline: Any, tolerance: float) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(arm, Mapping) and isinstance(baseline, Mapping):
        for key in sorted(arm.keys() & baseline.keys()):
            yield from _compare(f"{name}.{key}", arm[key], baseline[key], tolerance)
    elif _is_number(arm) and _is_number(baseline):
        if abs(arm - baseline) > tolerance * max(abs(arm), abs(baseline)):
            yield name, arm, baseline
    elif isinstance(arm, list) and isinstance(baseline, list) and len(arm) == len(baseline):
        if any(True for pair in zip(arm, baseline, strict=True) for _ in _compare(name, *pair, tolerance)):
            yield name, arm, baseline
    elif arm != baseline and "" not in (arm, baseline):
        yield name, arm, baseline


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
