"""An arm's knobs: options that can change without changing the experiment; and an arm with changed knobs.

A knob's values are few and far apart: the order of magnitude matters, and a search has only a few trials.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from raybench.declare.arms import Arm, DeepSpeedArm, TorchArm
from raybench.declare.deepspeed_config import offloads, resolve
from raybench.declare.setting import Setting

Choice = Mapping[str, Any]  # a value for each knob, by name

ACCUMULATION: Final = "accumulation"  # the micro-batch at an equal global batch
_ELEMENTS: Final = (100_000, 1_000_000, 10_000_000, 100_000_000)
_OF_ALL_STAGES: Final = {"overlap_comm": (False, True), "reduce_bucket_size": _ELEMENTS}
_OF_STAGE: Final[Mapping[int, Mapping[str, tuple[Any, ...]]]] = {
    1: {"allgather_bucket_size": _ELEMENTS},
    2: {"allgather_bucket_size": _ELEMENTS},
    3: {
        "stage3_prefetch_bucket_size": _ELEMENTS,
        "stage3_param_persistence_threshold": (0, 10_000, 100_000, 1_000_000),
        "sub_group_size": (1_000_000, 10_000_000, 100_000_000, 1_000_000_000),
    },
}
_PINNED: Final = {"optimizer": "offload_optimizer.pin_memory", "param": "offload_param.pin_memory"}
_OF_TORCH: Final = {
    "bucket_cap_mb": (1.0, 5.0, 25.0, 100.0),
    "gradient_as_bucket_view": (False, True),
    "static_graph": (False, True),
}


@dataclass(frozen=True)
class Knob:
    """An option to vary, and its possible values."""

    name: str
    values: tuple[Any, ...]


def knobs_of(arm: Arm, setting: Setting) -> tuple[Knob, ...]:
    """The knobs of an arm in a setting; empty where its engine has none."""
    found: dict[str, tuple[Any, ...]] = {}
    if isinstance(arm, TorchArm) and setting.workers > 1:
        found = dict(_OF_TORCH)
    elif isinstance(arm, DeepSpeedArm):
        config = resolve(arm, setting).config
        stage = (config.get("zero_optimization") or {}).get("stage", 0)
        found = {**_OF_ALL_STAGES, **_OF_STAGE[stage]} if stage else {}
        found |= {name: (False, True) for part, name in _PINNED.items() if offloads(config, part)}
    parts = [number for number in (1, 2, 4, 8) if _divides(setting, number)]
    if found and len(parts) > 1:
        found[ACCUMULATION] = tuple(parts)
    if setting.accumulation > 1:
        found.pop("static_graph", None)
    return tuple(Knob(name, values) for name, values in found.items())


def _divides(setting: Setting, accumulation: int) -> bool:
    batch = setting.batch_size
    return isinstance(batch, int) and batch % (setting.workers * accumulation) == 0


def turned(arm: Arm, choice: Choice) -> Arm:
    """The arm with its knobs at these values; a DeepSpeed arm then has them all in its config, ready to be copied."""
    values = dict(choice)
    accumulation = values.pop(ACCUMULATION, None)
    own = dict(arm.setting) if accumulation is None else {**arm.setting, ACCUMULATION: accumulation}
    if isinstance(arm, TorchArm):
        if (accumulation or 1) > 1:
            values["static_graph"] = False  # DDP learns the graph in a backward pass without synchronization
        return arm.model_copy(update={**values, "setting": own})
    assert isinstance(arm, DeepSpeedArm), arm
    config = copy.deepcopy(arm.config)
    zero = {**(config.get("zero_optimization") or {})}
    for key, value in arm.shorthands().items():
        zero[key] = {**(zero.get(key) or {}), **value} if isinstance(value, dict) else value
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if section:
            zero[section] = {**(zero.get(section) or {}), key: value}
        else:
            zero[key] = value
    shorthands = dict.fromkeys(("zero", "offload", "overlap_comm", "reduce_bucket_size", "allgather_bucket_size"))
    return arm.model_copy(update={**shorthands, "config": {**config, "zero_optimization": zero}, "setting": own})
