"""examples/trainer: its space plans, and its script trains under transformers' Trainer and tells its steps."""

from __future__ import annotations

import pytest
import torch

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.ledger.outcome import Measurement
from raybench.training.ranks import Ranks
from raybench.training.script import run_script
from raybench.training.telemetry import Telemetry
from tests.conftest import ROOT

RANKS = Ranks(0, 1, torch.device("cpu"), None)


@pytest.mark.slow
def test_the_example_plans_and_its_script_tells_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples" / "trainer")
    overrides = {
        "setting.workers": "1", "protocol.warmup_steps": "2", "protocol.steps": "4", "protocol.telemetry": "false",
        "arms.plain.command": "python train.py --steps {total_steps}",
    }  # fmt: skip
    trial = build_plan(*load_space("space.yaml", overrides)).trials[0]
    leg = next(leg for leg in trial.legs if leg.arm_name == "plain")
    found = run_script(trial, leg, RANKS, Telemetry(RANKS, False))
    assert isinstance(found, Measurement), found
    assert (len(found.step_seconds), found.samples_per_step) == (6, 4)
    assert found.step_losses is not None
    assert 5 < found.step_losses[0] < 8  # the logarithm of 512 words is 6.2
    assert found.facts["num_parameters"] == 147776
    assert {"initial weights", "data"} == set(found.facts["informative"]["not_known"])
