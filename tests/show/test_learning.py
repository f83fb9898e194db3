"""Curves of learning: which legs they show, where their points lie, and what is not guessed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from raybench.show.figures.learning import curves_of


def row(setting: str = "a", arm: str = "ddp", **changes: Any) -> dict[str, Any]:
    values = {
        "setting_id": setting, "setting": setting, "arm": arm, "step_seconds": [0.5, 0.25, 0.25, 1.0],
        "step_losses": [4.0, 3.0, 2.0, 1.0], "epoch_seconds": [0.75, 1.25], "epoch_accuracy": [None, 0.75],
        "protocol": json.dumps({"kind": "train", "target_accuracy": 0.7}),
    }  # fmt: skip
    return values | changes


def test_a_curve_runs_over_training_seconds_alone() -> None:
    (curve,) = curves_of([row()], ["ddp"])
    assert curve.steps.tolist() == [0.5, 0.75, 1.0, 2.0]
    assert curve.losses.tolist() == [4.0, 3.0, 2.0, 1.0]
    assert curve.epochs.tolist() == [0.75, 2.0]
    assert np.isnan(curve.accuracy[0])
    assert curve.accuracy[1] == 0.75
    assert curve.target == 0.7


def test_one_setting_and_only_what_was_trained_by_epochs() -> None:
    throughput = row("z", epoch_accuracy=None, epoch_seconds=None)
    curves = curves_of([throughput, row("a"), row("a", "zero1"), row("b")], ["ddp", "zero1"])
    assert [(curve.setting, curve.arm) for curve in curves] == [("a", "ddp"), ("a", "zero1")]
    assert curves_of([throughput], ["ddp"]) == ()
    assert curves_of([row(arm="other")], ["ddp"]) == ()


@pytest.mark.parametrize("steps", [200, 201, 1000])
def test_many_steps_are_drawn_as_means(steps: int) -> None:
    losses = list(np.linspace(4.0, 1.0, steps))
    (curve,) = curves_of([row(step_seconds=[0.1] * steps, step_losses=losses)], ["ddp"])
    assert len(curve.steps) == len(curve.losses) <= 200
    assert curve.losses[0] >= curve.losses[-1] > 0.99
    assert curve.losses.mean() == pytest.approx(2.5, rel=0.02)
