"""examples/trainer: its space plans, and both its commands train under the Trainer, alike, and tell their steps."""

from __future__ import annotations

import math

import pytest
import torch

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.ledger.outcome import Measurement
from raybench.training.node.sampling import Telemetry
from raybench.training.ranks import Ranks
from raybench.training.script_leg import run_script
from tests.conftest import ROOT

RANKS = Ranks(0, 1, torch.device("cpu"), None)


@pytest.mark.slow
@pytest.mark.distributed
def test_both_arms_of_the_example_train_alike_and_tell_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples" / "trainer")
    overrides = {"protocol.warmup_steps": "2", "protocol.steps": "4", "protocol.telemetry": "false"}
    trial = build_plan(*load_space("space.yaml", overrides)).trials[0]
    found = {leg.arm_name: run_script(trial, leg, RANKS, Telemetry(RANKS, False)) for leg in trial.legs}
    plain, zero2 = found["plain"], found["zero2"]
    for name, leg in found.items():
        assert isinstance(leg, Measurement), leg
        assert leg.facts["informative"]["deepspeed"] is (name == "zero2")
        assert (len(leg.step_seconds), leg.samples_per_step) == (6, 8)
        assert leg.facts["num_parameters"] == 147776
        assert {"initial weights", "data"} == set(leg.facts["informative"]["not_known"])
        assert leg.step_losses is not None
        assert 5 < leg.step_losses[0] < 8  # the logarithm of 512 words is 6.2
    assert isinstance(plain, Measurement)
    assert isinstance(zero2, Measurement)
    assert plain.step_losses is not None
    assert zero2.step_losses is not None
    assert all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(plain.step_losses, zero2.step_losses, strict=True))
