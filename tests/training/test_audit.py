"""Comparable or not, judged by the analysis from the facts of real legs: arms that hide a difference are found out."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.dataset as pads
import pytest
import yaml

from raybench.declare import experiment
from tests.conftest import Commands
from tests.training.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ADAMW = {"type": "AdamW", "params": {"lr": 0.001}}  # by hand: says nothing of weight decay
# (arm, what the facts must say of it); an empty text: the same experiment as the baseline.
LENET: dict[str, tuple[dict[str, Any], str]] = {
    "ddp": ({"engine": "torch"}, ""),
    "buckets": ({"engine": "torch", "bucket_cap_mb": 1, "gradient_as_bucket_view": True}, ""),
    "sharded": ({"engine": "torch", "zero_redundancy_optimizer": True}, ""),
    "broadcasts_nothing": ({"engine": "torch", "broadcast_buffers": True}, ""),  # LeNet has no buffers
    "fsdp": ({"engine": "fsdp"}, ""),
    "zero0": ({"engine": "deepspeed", "zero": 0}, ""),
    "zero2_offload": ({"engine": "deepspeed", "zero": 2, "offload": "optimizer"}, ""),
    "zero3": ({"engine": "deepspeed", "zero": 3}, ""),
    "hidden_weight_decay": ({"engine": "torch"}, "optimizer.weight_decay: 0.0 in ddp, 0.01"),
    "hidden_betas": ({"engine": "fsdp"}, "optimizer.betas: [0.9, 0.999] in ddp, [0.9, 0.95]"),
    "hidden_clipping": ({"engine": "deepspeed", "zero": 1}, "gradient_clipping: 0.0 in ddp, 1.0"),
    "hidden_order": ({"engine": "deepspeed", "zero": 1}, "shuffle: True in ddp, False"),
    "hidden_last_batch": ({"engine": "torch"}, "drop_last: True in ddp, False"),
    "hidden_dtype": ({"engine": "torch"}, "autocast: off in ddp, bfloat16"),
    "hidden_accumulation": ({"engine": "deepspeed", "zero": 1}, "accumulation: 1 in ddp, 2"),
    "hidden_schedule": ({"engine": "deepspeed", "zero": 2}, "lr_schedule.warmup_steps: 0 in ddp, 3"),
}
DECAYED: dict[str, tuple[dict[str, Any], str]] = {
    "ddp": ({"engine": "torch"}, ""),
    "by_hand": (
        {"engine": "deepspeed", "zero": 1, "config": {"optimizer": ADAMW}}, "optimizer.weight_decay: 0.01 in ddp, 0.0",
    ),
}  # fmt: skip
RESNET: dict[str, tuple[dict[str, Any], str]] = {
    "ddp": ({"engine": "torch"}, ""),
    "broadcasts": ({"engine": "torch", "broadcast_buffers": True}, "buffer_broadcasts: False in ddp, True"),
    "zero1": ({"engine": "deepspeed", "zero": 1}, ""),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "lenet": {"model": "lenet", "optimizer": {"name": "adamw", "lr": 1e-3}},
    "decayed": {"model": "lenet", "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}},  # torch's default
    "resnet": {"model": "test_resnet", "image_size": 32, "small_images": "none"},
}
SPACES = {"lenet": LENET, "decayed": DECAYED, "resnet": RESNET}
CASES = [(space, arm) for space, arms in SPACES.items() for arm in arms if arm != "ddp"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """space -> {"rows": arm -> ledger row, "comparisons": arm -> the analysis's}."""
    found, folders = {}, {name: tmp_path_factory.mktemp(name) for name in SPACES}
    for name, arms in SPACES.items():
        folder = folders[name]
        space = {
            "setting": {"dataset": "digits", "batch_size": 32, "workers": 2, **SETTINGS[name]},
            "arms": {arm: config for arm, (config, _) in arms.items()},
            "protocol": {"warmup_steps": 2, "steps": 3, "rounds": 1},
            "repeats": 1,
        }
        (folder / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
        commands = Commands(folder)
        planned = commands.run("plan", "space=space.yaml", "--json")
        assert planned.returncode == 0, planned.stderr
        (folder / "plan.json").write_text(planned.stdout)
    files = [str(folder / file) for folder in folders.values() for file in ("plan.json", "ledger")]
    torchrun(2, "tests.training.hidden", *files)
    for name, folder in folders.items():
        analysed = Commands(folder).run("analysis", "ledger", "--json")
        assert analysed.returncode == 0, analysed.stderr
        rows = pads.dataset(folder / "ledger").to_table().to_pylist()
        found[name] = {
            "rows": {row["arm"]: row for row in rows},
            "comparisons": {c["arm"]: c for c in json.loads(analysed.stdout)["comparisons"]},
        }
    return found


@pytest.mark.parametrize(("space", "arm"), CASES)
def test_each_pair_of_arms_is_judged_right(judged: dict[str, Any], space: str, arm: str) -> None:
    row, comparison = judged[space]["rows"][arm], judged[space]["comparisons"][arm]
    assert row["status"] == "ok", row["failure_message"]
    expected = SPACES[space][arm][1]
    if not expected:
        assert comparison["verdict"] == "undecided", comparison["caveats"]  # one trial decides nothing else
        return
    assert comparison["verdict"] == "not comparable"
    assert any(expected in caveat for caveat in comparison["caveats"]), comparison["caveats"]


def test_every_fact_has_a_known_name_and_most_are_stated(judged: dict[str, Any]) -> None:
    of_others = {
        "memory_format", "steps_per_epoch", "evaluated_samples",  # no epochs, no evaluation here
        "objective", "sequence_length", "flops_per_token", "training_flops_per_sample", "batch_shapes",  # other tasks
        "timed",  # scripts
    }  # fmt: skip
    for name, space in judged.items():
        absent = of_others if name == "resnet" else of_others | {"buffer_dtype"}  # LeNet has no buffers
        for arm, row in space["rows"].items():
            stated = set(json.loads(row["facts"])) - {experiment.INFORMATIVE}
            assert stated <= set(experiment.COMPARED), arm
            assert set(experiment.COMPARED) - stated <= absent, arm


def test_the_config_that_ran_and_what_was_added_to_it_are_recorded(judged: dict[str, Any]) -> None:
    informative = json.loads(judged["lenet"]["rows"]["zero2_offload"]["facts"])[experiment.INFORMATIVE]
    config, added = informative["deepspeed_config"], informative["added_by_raybench"]
    assert config["gradient_clipping"] == 0.0
    assert config["timers"] == {"throughput": {"enabled": False}}
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert {"train_batch_size", "gradient_clipping", "timers", "steps_per_print"} <= set(added) <= set(config)
    assert set(added["zero_optimization"]) == {"reduce_bucket_size", "allgather_bucket_size"}
