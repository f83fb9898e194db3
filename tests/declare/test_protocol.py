"""The protocols of a space: told apart by their kind, checked where they are written, and neutral to older ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.declare.plan import Plan, build_plan
from raybench.declare.protocol import Throughput, Train
from raybench.declare.space import load_space
from raybench.errors import UserError

SPACE = """
question: {quality_margin: 0.02}
setting: {model: lenet, dataset: digits, batch_size: 32, workers: 2}
arms: {ddp: {engine: torch}, zero1: {engine: deepspeed, zero: 1}}
"""

IDS = ("6a5ba62095335269", "e65f865fd55e1069", "88394dcfd7ef9fc5")


def plan(folder: Path, protocol: str) -> Plan:
    path = folder / "mine.yaml"
    path.write_text(f"{SPACE}protocol: {protocol}\n")
    return build_plan(*load_space(str(path)))


def test_without_a_kind_it_is_throughput(tmp_path: Path) -> None:
    bare, named = (plan(tmp_path, text) for text in ("{steps: 5}", "{kind: throughput, steps: 5}"))
    assert bare.trials[0].protocol == Throughput(steps=5)
    assert bare == named
    assert bare.question.quality_margin == 0.02


def test_ids_are_those_of_the_first_plans(tmp_path: Path) -> None:
    trial = plan(tmp_path, "{steps: 5, warmup_steps: 2}").trials[0]
    assert (trial.setting_id, trial.trial_id, trial.legs[0].leg_id) == IDS


def test_a_training_protocol_survives_the_plans_json(tmp_path: Path) -> None:
    planned = plan(tmp_path, "{kind: train, epochs: 3, target_accuracy: 0.9}")
    protocol = planned.trials[0].protocol
    assert protocol == Train(kind="train", epochs=3, target_accuracy=0.9)
    assert protocol.rounds == 1
    assert Plan.model_validate_json(planned.model_dump_json()) == planned
    assert planned.trials[0].trial_id != plan(tmp_path, "{steps: 3}").trials[0].trial_id


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("{kind: trian, epochs: 3}", ["mine.yaml:5", "unknown kind 'trian'", "did you mean train"]),
        ("{kind: train}", ["mine.yaml:5", "'epochs' is missing"]),
        ("{kind: train, epochs: 3, steps: 4}", ["mine.yaml:5", "protocol.steps", "unknown key", "epochs"]),
        ("{kind: train, epochs: 3, target_accuracy: 90}", ["protocol.target_accuracy", "less than or equal to 1"]),
        ("{steps: 4, epochs: 3}", ["protocol.epochs", "unknown key"]),
        ("[train]", ["mine.yaml:5", "protocol"]),
    ],
)
def test_a_wrong_protocol_is_told_in_one_line(tmp_path: Path, protocol: str, words: list[str]) -> None:
    with pytest.raises(UserError) as told:
        plan(tmp_path, protocol)
    assert "\n" not in str(told.value)
    for word in words:
        assert word in str(told.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"protocol": "{kind: train, epochs: 3}"},
        {"protocol.epochs": "3", "protocol.kind": "train"},
    ],
)
def test_an_override_that_changes_the_kind_replaces_the_protocol(tmp_path: Path, overrides: dict[str, str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{SPACE}protocol: {{warmup_steps: 5, steps: 30}}\n")
    assert load_space(str(path), overrides)[1].protocol == Train(kind="train", epochs=3)
    _, space = load_space(str(path), {"protocol": "{kind: throughput, steps: 4}"})
    assert space.protocol == Throughput(warmup_steps=5, steps=4)


def test_an_override_by_another_optimizer_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SPACE.replace("workers: 2", "workers: 2, optimizer: {name: adamw, eps: 0.1}"))
    _, space = load_space(str(path), {"setting.optimizer": "{name: sgd, lr: 0.1}"})
    assert space.setting["optimizer"] == {"name": "sgd", "lr": 0.1}
