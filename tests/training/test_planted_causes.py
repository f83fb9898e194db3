"""Causes planted in real legs, in one process: a sleep in a gradient hook, in the loader, in the optimizer.

The sentence names the planted cause and no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.analysis import analyse
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.ledger.dataset import Ledger
from raybench.ledger.parts import PARTS
from raybench.training import leg as legs_of_training
from raybench.training import profiling
from raybench.training.loader import Batches
from raybench.training.ranks import Ranks
from raybench.training.worker import run_legs

# Arms that differ in nothing but an option without effect in one process, so that each is an arm of its own.
SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 8, device: cpu}
arms:
  plain: {engine: torch}
  hook: {engine: torch, bucket_cap_mb: 1}
  loader: {engine: torch, bucket_cap_mb: 2}
  optimizer: {engine: torch, bucket_cap_mb: 3}
protocol: {warmup_steps: 1, steps: 2, rounds: 1, telemetry: false}
repeats: 1
explain: true
"""
SECONDS = 1.0  # so many times a step that even on a machine that other tests keep busy scatter is no tenth of it
NAMES = {
    "hook": ("gradient hooks", "on the host"),
    "loader": ("data", "in the wait for data"),
    "optimizer": ("optimizer", "on the host"),
}


def test_each_planted_cause_is_named_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[str] = []  # the arm
    build = legs_of_training.build_engine

    def build_planted(leg: Any, model: Any, device: Any) -> Any:
        engine = build(leg, model, device)
        if leg.arm_name == "hook":
            next(model.parameters()).register_hook(lambda _: time.sleep(SECONDS))
        elif leg.arm_name == "optimizer":
            engine.optimizer.register_step_pre_hook(lambda *_: time.sleep(SECONDS))
        return engine

    class SlowBatches(Batches):
        def _loaded(self) -> Iterator[Any]:
            for batch in super()._loaded():
                time.sleep(SECONDS if running[-1] == "loader" else 0.0)
                yield batch

    monkeypatch.setattr(profiling, "STEPS", 2)
    monkeypatch.setattr(legs_of_training, "build_engine", build_planted)
    monkeypatch.setattr(legs_of_training, "Batches", SlowBatches)
    (tmp_path / "planted.yaml").write_text(SPACE)
    plan = build_plan(*load_space(str(tmp_path / "planted.yaml")))
    ledger = Ledger(tmp_path / "ledger")
    (trial,) = plan.trials
    run_legs(
        [(trial, trial.legs)], Ranks(0, 1, torch.device("cpu"), None), lambda leg: running.append(leg.arm_name),
        lambda leg, outcome: ledger.add(plan.sweep, plan.space, trial, leg, outcome),
    )  # fmt: skip
    found = {one.arm: one for one in analyse([tmp_path / "ledger"]).explanations}
    for arm, (cause, where) in NAMES.items():
        told = found[arm].sentence.partition("(Its measured")[0]
        named = told.partition(" of it ")[2].partition(". ")[0]
        assert named.startswith(f"{where}: {cause} "), told
        assert [part for part in PARTS if f" {part} " in f" {named}"] == [cause], told
        assert found[arm].parts[cause] - found["plain"].parts.get(cause, 0.0) == pytest.approx(SECONDS, rel=0.1)
    for cause, _ in NAMES.values():  # switched off, none is claimed
        assert found["plain"].parts.get(cause, 0.0) < SECONDS / 4
