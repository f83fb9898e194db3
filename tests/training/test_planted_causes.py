"""Causes planted in real legs, in one process: a sleep in a gradient hook, in the loader, in the optimizer; less CPU.

The sentence names the planted cause and no other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.analysis import analyse
from raybench.analysis.views.explanations import Explanation
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
SECONDS = 0.5  # so many times a step that even on a machine that other tests keep busy scatter is no tenth of it
NAMES = {
    "hook": ("gradient hooks", "on the host"),
    "loader": ("data", "in the wait for data"),
    "optimizer": ("optimizer", "on the host"),
}
THROTTLED = """
setting: {model: lenet, dataset: digits, batch_size: 64, device: cpu}
arms: {plain: {engine: torch}, throttled: {engine: torch, bucket_cap_mb: 1}}
protocol: {warmup_steps: 2, steps: 30, rounds: 1}
repeats: 1
explain: true
"""


def explained(folder: Path, space: str, begins: Callable[[str], object]) -> dict[str, Explanation]:
    """Run a space's legs in this process, `begins` told the arm of each; the explanations by arm."""
    (folder / "planted.yaml").write_text(space)
    plan = build_plan(*load_space(str(folder / "planted.yaml")))
    ledger = Ledger(folder / "ledger")
    (trial,) = plan.trials
    run_legs(
        [(trial, trial.legs)], Ranks(0, 1, torch.device("cpu"), None), lambda leg: begins(leg.arm_name),
        lambda leg, outcome: ledger.add(plan.sweep, plan.space, trial, leg, outcome),
    )  # fmt: skip
    return {one.arm: one for one in analyse([folder / "ledger"]).explanations}


@pytest.fixture
def limit_cpu() -> Iterator[Callable[[float | None], None]]:
    """Sets the processors that this process and its children may use, by a control group; None sets no limit."""
    root = Path("/sys/fs/cgroup")
    first = (root / "cpu").is_dir()
    group = (root / "cpu" if first else root) / f"raybench-test-{os.getpid()}"

    def limit(cpus: float | None) -> None:
        quota = None if cpus is None else int(100_000 * cpus)
        if first:
            (group / "cpu.cfs_quota_us").write_text(str(quota or -1))
        else:
            (group / "cpu.max").write_text(f"{quota or 'max'} 100000")

    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        (before, *_) = [path for _, names, path in lines if not first or "cpu" in names.split(",")]
        home = group.parent / before.lstrip("/") / "cgroup.procs"
        group.mkdir()
        limit(None)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except (OSError, ValueError):
        with suppress(OSError):
            group.rmdir()
        pytest.skip("no control group with a limit of CPU time can be made here")
    yield limit
    limit(None)
    for process in (group / "cgroup.procs").read_text().split():
        home.write_text(process)
    group.rmdir()


def test_a_throttled_cpu_is_named_and_no_part_of_the_step(
    tmp_path: Path, limit_cpu: Callable[[float | None], None]
) -> None:
    found = explained(tmp_path, THROTTLED, lambda arm: limit_cpu(0.3 if arm == "throttled" else None))
    told = found["throttled"].sentence
    assert "Why is not known: while it ran, and not while plain did, the machine was disturbed" in told
    assert "CPU limit of the container" in told
    assert " of it " not in told


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
    found = explained(tmp_path, SPACE, running.append)
    for arm, (cause, where) in NAMES.items():
        told = found[arm].sentence.partition("(Its measured")[0]
        named = told.partition(" of it ")[2].partition(". ")[0]
        assert named.startswith(f"{where}: {cause} "), told
        assert [part for part in PARTS if f" {part} " in f" {named}"] == [cause], told
        assert found[arm].parts[cause] - found["plain"].parts.get(cause, 0.0) == pytest.approx(SECONDS, rel=0.2)
    for cause, _ in NAMES.values():  # switched off, none is claimed
        assert found["plain"].parts.get(cause, 0.0) < SECONDS / 4
