"""A delay hidden in one arm's engine is found: to the tick on a fake clock, and as a verdict of real legs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from raybench.analysis import analyse
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.ledger.dataset import Ledger
from raybench.training import leg as legs_of_training
from raybench.training.loop import run_steps
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import HostClock, step_times
from raybench.training.worker import run_legs
from tests.training.delayed import Delayed
from tests.training.fake import FakeEngine, FakeTime, batches, loss_of

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 16, device: cpu}
arms: {plain: {engine: torch}, hidden: {engine: torch}}
protocol: {warmup_steps: 2, steps: 8, rounds: 2, telemetry: false}
repeats: 5
"""


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.10])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_known_share_is_the_ratio_on_a_fake_clock(share: float, accumulation: int) -> None:
    def seconds(delay: float | None) -> float:
        time = FakeTime()
        engine: Any = FakeEngine(time, forward=2.0, backward=4.0, step=8.0)
        if delay is not None:
            engine = Delayed(engine, delay, time, lambda moment: setattr(time, "now", moment))
        clock = HostClock(time)
        run_steps(
            engine, batches(time, 0.0), loss_of, clock, num_steps=5, accumulation=accumulation,
            phases=False,
        )  # fmt: skip
        return float(step_times(clock.seconds(), accumulation, False).step.mean())

    assert seconds(None) / seconds(share) == pytest.approx(1 / (1 + share), rel=1e-12)


def test_a_hidden_delay_turns_the_verdict_of_real_legs(tmp_path: Path) -> None:
    (tmp_path / "hidden.yaml").write_text(SPACE)
    name, space = load_space(str(tmp_path / "hidden.yaml"))
    plan = build_plan(name, space)
    ledger = Ledger(tmp_path / "ledger")
    build = legs_of_training.build_engine

    def build_delayed(leg: Any, *others: Any) -> Any:
        engine = build(leg, *others)
        return Delayed(engine, 3.0) if leg.arm_name == "hidden" else engine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of a step this short, most would be threads waiting for each other
    with patch.object(legs_of_training, "build_engine", build_delayed):
        for trial in plan.trials:
            ranks = Ranks(0, 1, torch.device("cpu"), None)

            def record(leg: Any, outcome: Any, trial: Any = trial) -> None:
                ledger.add(plan.sweep, plan.space, trial, leg, outcome)

            run_legs([(trial, trial.legs)], ranks, lambda _: None, record)
    torch.set_num_threads(threads)
    (comparison,) = analyse([tmp_path / "ledger"]).comparisons
    assert comparison.verdict == "hurts"
    assert comparison.speedup.low is not None
    assert comparison.speedup.high is not None
    assert comparison.speedup.low < 1 / 4 * 1.5
    assert comparison.speedup.high > 1 / 4 / 1.5
