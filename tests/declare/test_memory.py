"""Predicted memory: ZeRO's published numbers, and the sizes of models in closed form."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from raybench.declare.arms import Arm
from raybench.declare.memory_need import Shape, activation_bytes, bucket_bytes, needs, predicted_bytes, shape_of
from raybench.declare.plan import build_plan
from raybench.declare.setting import Setting
from raybench.declare.space import load_space


def setting(model: str = "hf/gpt2", **fields: Any) -> Setting:
    known = {"model": model, "dataset": "synthetic_tokens", "batch_size": 64, "workers": 64, "precision": "bf16"}
    return Setting.model_validate({**known, **fields})


def arm(**fields: Any) -> Any:
    return TypeAdapter[Any](Arm).validate_python(fields)


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_numbers_of_the_zero_paper(zero: int, gigabytes: float) -> None:
    """Figure 1 of Rajbhandari et al. 2020: 7.5 billion parameters on 64 GPUs, in mixed precision with Adam."""
    found = predicted_bytes(setting(mixed_precision="cast"), arm(engine="deepspeed", zero=zero), 7_500_000_000)
    assert (found["device"] - found["communication_buckets"]) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_what_is_offloaded_leaves_the_device() -> None:
    one = setting(mixed_precision="cast", workers=2)
    there = predicted_bytes(one, arm(engine="deepspeed", zero=2), 1000)
    away = predicted_bytes(one, arm(engine="deepspeed", zero=2, offload="optimizer"), 1000)
    assert away["host"] == 12 * 500
    assert away["device"] == there["device"] - 12 * 500


@pytest.mark.parametrize(
    ("engine", "parts"),
    [
        ({"engine": "torch"}, (4, 4, 0, 8)),
        ({"engine": "fsdp"}, (2, 2, 0, 4)),
        ({"engine": "torch", "zero_redundancy_optimizer": True}, (4, 4, 0, 4)),
        ({"engine": "deepspeed", "zero": 0}, (4, 4, 0, 8)),
        ({"engine": "deepspeed", "zero": 1}, (4, 4, 2, 4)),
        ({"engine": "deepspeed", "zero": 3}, (2, 2, 2, 4)),
    ],
)
def test_fp32_on_two_workers(engine: dict[str, Any], parts: tuple[int, ...]) -> None:
    """As `memory_parts` of two ranks on a CPU measured it; ZeRO-3 keeps small parameters whole as well."""
    found = predicted_bytes(setting(precision="fp32", workers=2), arm(**engine), 100)
    names = ("parameters", "gradients", "master_weights", "optimizer_state")
    assert tuple(found[name] / 100 for name in names) == parts


def test_what_is_frozen_has_no_states() -> None:
    found = predicted_bytes(setting(workers=1, precision="fp32"), arm(engine="torch"), 1000, 10)
    assert (found["parameters"], found["gradients"], found["optimizer_state"]) == (4000, 40, 80)


def test_sizes_in_closed_form_are_the_published_ones() -> None:
    for name, size in {"gpt2": 124_439_808, "gpt2-xl": 1_557_611_200, "llama-8b": 8_030_261_248}.items():
        shape = shape_of(setting(f"hf/{name}"))
        assert shape is not None
        assert shape.num_parameters == size
    assert shape_of(setting("hf/qwen3")) is None


def test_activations_grow_with_tokens_and_shrink_with_checkpointing() -> None:
    shape = Shape(layers=10, hidden=100, vocabulary=0, num_parameters=0)
    one = setting(sequence_length=1000, batch_size=64)
    assert activation_bytes(one, shape) == 34 * 1000 * 100 * 10
    assert activation_bytes(setting(sequence_length=2000, batch_size=64), shape) == 2 * 34 * 1000 * 100 * 10
    checkpointed = setting(sequence_length=1000, activation_checkpointing=True)
    assert activation_bytes(checkpointed, shape) == 1000 * 100 * (34 + 2 * 10)


def test_the_plan_says_what_will_not_fit() -> None:
    changes = {"setting.model": "hf/gpt2-xl", "setting.memory_limit": "20GiB", "repeats": "1"}
    found = {need.arm: need for need in needs(build_plan(*load_space("gpt", changes)))}
    assert not found["ddp"].fits
    assert found["fsdp"].device_bytes < found["ddp"].device_bytes
    assert {need.limit for need in found.values()} == {20 * 2**30}


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({}, 0),
        ({"zero_optimization": {"stage": 0}}, 0),
        ({"zero_optimization": {"stage": 1}}, 2_000_000_000),  # as on an H200, `results/paper/h200`
        ({"zero_optimization": {"stage": 3}, "fp16": {"enabled": True}}, 1_000_000_000),  # as in `results/ladder/h200`
        ({"zero_optimization": {"stage": 2, "overlap_comm": True}}, 4_000_000_000),  # two buffers
        ({"zero_optimization": {"stage": 3, "overlap_comm": True}}, 2_000_000_000),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}, 4000),
        ({"zero_optimization": {"stage": 2, "contiguous_gradients": False}}, 0),
    ],
)
def test_buckets_have_the_size_that_the_config_or_deepspeed_gives_them(config: dict[str, Any], size: int) -> None:
    assert bucket_bytes(config) == size


def test_on_a_cpu_buckets_are_fitted_to_the_model() -> None:
    found = predicted_bytes(setting(precision="fp32"), arm(engine="deepspeed", zero=1), 1000, on_cpu=True)
    assert found["communication_buckets"] == 4000
