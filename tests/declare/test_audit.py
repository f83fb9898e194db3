"""What arms declare to differ in: found before anything runs, refused unless the space says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError

DDP = {"engine": "torch"}


def write(folder: Path, arms: dict[str, Any], **content: Any) -> str:
    setting = {"model": "lenet", "dataset": "digits", "batch_size": 16, "workers": 2, **content.pop("setting", {})}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"setting": setting, "arms": arms, **content}, sort_keys=False))
    return str(path)


def deepspeed(**config: Any) -> dict[str, Any]:
    return {"engine": "deepspeed", "zero": 1, "config": config}


@pytest.mark.parametrize(
    ("other", "what", "words"),
    [
        ({**DDP, "setting": {"batch_size": 32}}, "batch_size 32 instead of 16", ["batch_size"]),
        ({**DDP, "setting": {"optimizer": "sgd"}}, "optimizer.name sgd instead of adamw", ["optimizer"]),
        (
            {**DDP, "setting": {"optimizer": {"name": "adamw", "weight_decay": 0.1}}},
            "optimizer.weight_decay 0.1 instead of 0",
            ["weight_decay"],
        ),
        ({**DDP, "communication_hook": "fp16"}, "communication_dtype fp16 instead of none", ["communication"]),
        ({"engine": "fsdp", "reduce_dtype": "bf16"}, "communication_dtype bf16", ["communication_dtype"]),
        (deepspeed(bf16={"enabled": True}), "precision bf16 instead of fp32", ["precision"]),
        (deepspeed(torch_autocast={"enabled": True, "dtype": "float16"}), "precision fp16 instead", ["precision"]),
        (
            deepspeed(optimizer={"type": "AdamW", "params": {"lr": 0.001, "betas": [0.8, 0.9]}}),
            "optimizer.betas [0.8, 0.9] instead of [0.9, 0.999]",
            ["optimizer"],
        ),
        (deepspeed(optimizer={"type": "Lion", "params": {}}), "optimizer.name lion instead of adamw", ["optimizer"]),
        (deepspeed(scheduler={"type": "WarmupLR", "params": {}}), "schedule.name WarmupLR", ["schedule"]),
        (deepspeed(communication_data_type="fp16"), "communication_dtype fp16", ["communication"]),
    ],
)
def test_a_declared_difference_is_refused_until_the_space_declares_it(
    tmp_path: Path, other: dict[str, Any], what: str, words: list[str]
) -> None:
    arms = {"ddp": DDP, "other": other}
    with pytest.raises(UserError) as refusal:
        load_space(write(tmp_path, arms))
    text = str(refusal.value)
    assert what in text
    assert "arms.other" in text
    assert "differs: [" in text
    assert "\n" not in text
    load_space(write(tmp_path, arms, differs=words))
    with pytest.raises(UserError):
        load_space(write(tmp_path, arms, differs=["loader_workers"]))


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "fsdp"},
        {**DDP, "zero_redundancy_optimizer": True, "bucket_cap_mb": 5},
        {**DDP, "setting": {"batch_size": 16}},  # says what the setting says
        {"engine": "deepspeed", "zero": 1, "overlap_comm": False},
        deepspeed(optimizer={"type": "AdamW", "params": {"lr": 0.001}}),  # its defaults are for the facts to tell
        deepspeed(optimizer={"type": "Adam", "params": {"lr": 0.001}}),  # DeepSpeed's Adam is AdamW
        deepspeed(bf16={"enabled": False}),
        {**DDP, "setting": {"mixed_precision": "cast"}},  # there is nothing to cast in fp32
    ],
)
def test_what_is_the_engines_own_needs_no_declaration(tmp_path: Path, other: dict[str, Any]) -> None:
    load_space(write(tmp_path, {"ddp": DDP, "other": other}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_batch_size": 32}, "is 32, and 16 in the setting"),
        ({"train_micro_batch_size_per_gpu": 16}, "is 16, and 8 in the setting"),
        ({"gradient_accumulation_steps": 2}, "is 2, and 1 in the setting"),
        ({"gradient_clipping": 1.0}, "is 1.0, and 0 in the setting"),
        ({"flops_profiler": {"enabled": True}}, "inside the timed steps"),
        ({"zero_optimization": {"stage": 2}}, "contradicts the arm's own"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "cannot both be enabled"),
    ],
)
def test_a_config_that_contradicts_raybench_is_an_error(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load_space(write(tmp_path, {"ddp": DDP, "other": deepspeed(**config)}, differs=["precision"]))
    assert "space.yaml:" in str(refusal.value)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"engine": "deepspeed", "zero": 4}, "zero"),
        ({"engine": "deepspeed", "offload": "optimizer"}, "needs zero: 1 or more"),
        ({"engine": "deepspeed", "zero": 2, "offload": "both"}, "needs zero: 3"),
        ({"engine": "deepspeed", "zero": 0, "overlap_comm": True}, "zero: 1 or more"),
        ({"engine": "fsdp", "reshard": True}, "unknown key 'reshard'"),
        ({"engine": "horovod"}, "horovod"),
        ({**DDP, "setting": {"workers": 4}}, "cannot differ by arm"),
    ],
)
def test_bad_arms_are_one_line(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load_space(write(tmp_path, {"ddp": DDP, "other": arm}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schedule": "cosine"}, "give it"),
        ({"schedule": {"name": "linear", "warmup_steps": 9, "total_steps": 9}}, "must be more"),
        ({"schedule": {"name": "constant", "total_steps": 9}}, "no total_steps"),
        ({"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0}}, "nesterov needs"),
        ({"optimizer": {"name": "sgd", "kernel": "deepspeed"}}, "kernel"),
        ({"optimizer": {"name": "lamb", "kernel": "fused"}}, "kernel"),
        ({"optimizer": {"name": "adam", "betas": [0.9, 1.0]}}, "below 1"),
        ({"loss_scale": {"initial": 1000}}, "power of two"),
        ({"mixed_precision": "mixed"}, "autocast"),
        ({"batch_size": 18, "accumulation": 2}, "not divisible"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_space(write(tmp_path, {"ddp": DDP, "fsdp": {"engine": "fsdp"}}, setting=setting))


def test_an_unknown_word_under_differs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown word 'optimiser'"):
        load_space(write(tmp_path, {"ddp": DDP, "fsdp": {"engine": "fsdp"}}, differs=["optimiser"]))


def test_a_chain_differs_in_one_thing_at_a_time(tmp_path: Path) -> None:
    small = {**DDP, "setting": {"batch_size": 8}}
    zero = {"engine": "deepspeed", "zero": 1}
    chained = {"chain": True, "differs": ["batch_size", "optimizer"]}
    _, space = load_space(write(tmp_path, {"small": small, "large": DDP, "zero1": zero}, **chained))
    legs = {leg.arm_name: leg for leg in build_plan("chain", space).trials[0].legs}
    assert {name: leg.arm_config()["chain"] for name, leg in legs.items()} == {"small": 0, "large": 1, "zero1": 2}
    with pytest.raises(UserError, match="differs from small in batch_size and engine"):
        load_space(write(tmp_path, {"small": small, "zero1": zero}, **chained))
    with pytest.raises(UserError, match="differs from large in nothing"):
        load_space(write(tmp_path, {"small": small, "large": DDP, "same": DDP}, **chained))
    _, unchained = load_space(write(tmp_path, {"small": small, "zero1": zero}, differs=["batch_size"]))
    assert "chain" not in build_plan("no chain", unchained).trials[0].legs[0].arm_config()


def test_the_ladder_is_a_chain_from_the_example_to_offload() -> None:
    name, space = load_space("ladder")
    legs = {leg.arm_name: leg for leg in build_plan(name, space).trials[0].legs}
    example, offload = legs["example"], legs["offload"]
    assert (example.setting.batch_size, example.setting.optimizer.name, example.setting.precision) == (4, "sgd", "fp32")
    assert (offload.setting.batch_size, offload.setting.optimizer.name, offload.setting.precision) == (
        16, "adam", "fp16",
    )  # fmt: skip
    assert sorted(leg.chain for leg in legs.values()) == list(range(len(space.arms)))
    config = offload.arm_config()["deepspeed_config"]
    assert config["zero_optimization"]["stage"] == 3
    assert config["fp16"]["enabled"] is True
    assert config["gradient_clipping"] == 1.0
