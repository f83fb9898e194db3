"""`deterministic: true`: two legs give the same losses to the last bit, and the leg after them is free again."""

from __future__ import annotations

import torch

from raybench.declare.arms import TorchArm
from raybench.declare.plan import build_plan
from raybench.declare.space import Space
from raybench.ledger.outcome import Measurement
from raybench.training.leg import run_leg
from raybench.training.node.sampling import Telemetry
from raybench.training.ranks import Ranks


def measured(deterministic: bool) -> list[Measurement]:
    space = Space(
        setting={
            "model": "lenet", "dataset": "digits", "batch_size": 8,
            "deterministic": deterministic, "augmentation": {"crop": 2, "cutmix": 1.0},
        },
        arms={"one": TorchArm(engine="torch"), "same": TorchArm(engine="torch")},
        protocol={"warmup_steps": 1, "steps": 6, "rounds": 1, "telemetry": False, "evaluate": True},
        repeats=1,
    )  # fmt: skip
    (trial,) = build_plan("two", space).trials
    ranks = Ranks.joined(torch.device("cpu"), 100)
    torch.set_num_threads(1)
    return [run_leg(trial, leg, ranks, Telemetry(ranks, False)) for leg in trial.legs]


def test_losses_are_the_same_to_the_last_bit() -> None:
    one, other = measured(deterministic=True)
    assert one.step_losses == other.step_losses
    assert len(set(one.step_losses or ())) == 7
    assert one.facts["deterministic"] is True
    assert one.facts["cudnn_benchmark"] is False
    assert (one.accuracy, one.eval_loss) == (other.accuracy, other.eval_loss)
    assert one.facts["evaluated_samples"] == 360
    assert one.epoch_seconds is None
    free, _ = measured(deterministic=False)
    assert free.facts["deterministic"] is False
