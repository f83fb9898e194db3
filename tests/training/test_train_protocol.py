"""Whole epochs with evaluation between them, by real engines in two ranks, held to a plain PyTorch script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from raybench.analysis import analyse
from tests.conftest import Commands
from tests.training import datafiles, references
from tests.training.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

EPS = 1e-5  # at Adam's usual 1e-8 a gradient that is nothing but rounding moves its weight by a whole step
LENET = {"model": "lenet", "batch_size": 32, "workers": 2, "optimizer": {"name": "adamw", "lr": 2e-3, "eps": EPS}}
ARMS: dict[str, Any] = {
    "ddp": {"engine": "torch"}, "fsdp": {"engine": "fsdp"}, "zero1": {"engine": "deepspeed", "zero": 1},
    "zero3": {"engine": "deepspeed", "zero": 3},
}  # fmt: skip
TARGET, EPOCHS, STEPS_PER_EPOCH = 0.9, 5, 1437 // 2 // 16


def run(folder: Path, **space: Any) -> list[dict[str, Any]]:
    (folder / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    planned = Commands(folder).run("plan", "space=space.yaml", "--json")
    assert planned.returncode == 0, planned.stderr
    (folder / "plan.json").write_text(planned.stdout)
    torchrun(2, "raybench.training", str(folder / "plan.json"), f"ledger={folder / 'ledger'}")
    rows: list[dict[str, Any]] = pq.read_table(folder / "ledger").to_pylist()
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("train")
    found = run(
        folder,
        setting={**LENET, "dataset": "digits"},
        arms=ARMS,
        protocol={"kind": "train", "epochs": EPOCHS, "target_accuracy": TARGET, "warmup_steps": 3},
        repeats=1,
    )
    assert [row["status"] for row in found] == ["ok"] * 4, [row["failure_message"] for row in found]
    assert {c.verdict for c in analyse([folder / "ledger"]).comparisons} == {"undecided"}  # one trial, comparable
    times = analyse([folder / "ledger"], metric="time_to_accuracy")
    assert {c.arm: c.failures for c in times.comparisons} == dict.fromkeys(("fsdp", "zero1", "zero3"), 0)
    return {row["arm"]: row for row in found}


def test_losses_and_accuracies_are_those_of_a_plain_script(rows: dict[str, Any]) -> None:
    seed = rows["ddp"]["seed"]
    torch.set_num_threads(1)
    losses, accuracies = references.epochs(seed, world=2, batch_size=16, num_epochs=EPOCHS, lr=2e-3, eps=EPS)
    assert max(accuracies) > TARGET
    for arm, row in rows.items():
        epochs = len(row["epoch_accuracy"])
        assert row["step_losses"] == pytest.approx(losses[: epochs * STEPS_PER_EPOCH], rel=1e-3, abs=1e-4), arm
        assert row["epoch_accuracy"] == pytest.approx(accuracies[:epochs], abs=1.01 / 360), arm  # a sample at most


def test_a_leg_ends_with_the_epoch_that_reaches_the_target(rows: dict[str, Any]) -> None:
    for row in rows.values():
        *before, last = row["epoch_accuracy"]
        assert before
        assert max(before) < TARGET <= last
        assert last == row["accuracy"] < row["accuracy_top5"] <= 1


def test_training_is_timed_and_evaluation_apart(rows: dict[str, Any]) -> None:
    for row in rows.values():
        steps, epochs = len(row["step_seconds"]), len(row["epoch_accuracy"])
        assert steps == len(row["data_seconds"]) == len(row["step_losses"]) == epochs * STEPS_PER_EPOCH
        assert row["warmup_steps"] == 3
        assert sum(row["epoch_seconds"]) == pytest.approx(sum(row["step_seconds"])) == row["train_seconds"]
        assert row["epoch_seconds"][0] == pytest.approx(sum(row["step_seconds"][:STEPS_PER_EPOCH]))
        assert row["eval_seconds"] > 0
        facts = json.loads(row["facts"])
        assert (facts["evaluated_samples"], facts["steps_per_epoch"]) == (360, STEPS_PER_EPOCH)


def test_random_changes_are_the_same_in_every_arm_and_others_in_every_trial(tmp_path: Path) -> None:
    datafiles.write_cifar(tmp_path / "images", test=21)
    found = run(
        tmp_path,
        setting={
            **LENET, "dataset": "cifar10", "data_root": str(tmp_path / "images"), "loader_workers": 1,
            "augmentation": {"crop": 4, "flip": True, "mixup": 0.2},
        },
        arms={"ddp": ARMS["ddp"], "zero1": ARMS["zero1"]},
        protocol={"kind": "train", "epochs": 3, "evaluate_every": 2, "warmup_steps": 1},
        repeats=2,
    )  # fmt: skip
    assert [row["status"] for row in found] == ["ok"] * 4, [row["failure_message"] for row in found]
    seen = {(row["repeat"], row["arm"]): json.loads(row["facts"])["first_batch"] for row in found}
    assert seen[0, "ddp"] == seen[0, "zero1"] != seen[1, "ddp"] == seen[1, "zero1"]
    for row in found:
        assert len(row["step_losses"]) == 3 * 3
        assert row["epoch_accuracy"][0] is None
        assert None not in row["epoch_accuracy"][1:]
        facts = json.loads(row["facts"])
        assert facts["augmentation"] == {"crop": 4, "flip": True, "mixup": 0.2}
        assert facts["evaluated_samples"] == 21
        assert (facts["persistent_workers"], facts["prefetch_factor"]) == (True, 2)


def test_data_that_will_not_do_are_a_failure_of_every_leg(tmp_path: Path) -> None:
    datafiles.write_folder(tmp_path / "images")
    (tmp_path / "images/val/bee/1.png").write_bytes(b"")
    found = run(
        tmp_path,
        setting={
            **LENET,
            "dataset": "imagefolder",
            "image_size": 32,
            "batch_size": 8,
            "data_root": str(tmp_path / "images"),
        },
        arms={"ddp": ARMS["ddp"], "fsdp": ARMS["fsdp"]},
        protocol={"kind": "train", "epochs": 1, "warmup_steps": 1},
        repeats=1,
    )
    assert [(row["status"], row["failure_kind"]) for row in found] == [("failed", "invalid_config")] * 2
    for row in found:
        assert "images/val/bee/1.png cannot be read as an image" in row["failure_message"]
