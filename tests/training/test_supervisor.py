"""A leg that ends its processes under torchrun: its row is written at once, and the same run goes on behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.training import supervisor
from raybench.training.work import Work
from tests.conftest import Commands

# Rank 1's fourth step: it hangs in the first set of processes, dies in the second, raises in the third.
MODEL = """
import os, signal, time
import torch
from torch import nn

class Doomed(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, classes))
        self.steps = 0

    def forward(self, images):
        self.steps += self.training and torch.is_grad_enabled()
        number = int(os.environ["RAYBENCH_GROUP"].rpartition("-")[2]) if "RAYBENCH_GROUP" in os.environ else 9
        if self.steps == 4 and os.environ.get("RANK") == "1":
            if number == 0:
                time.sleep(1000)
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 2:
                raise ValueError("on this rank alone")
        return self.layers(images)

def net(num_classes, in_chans, image_size):
    assert image_size == 8
    return Doomed(in_chans, num_classes)
"""
SPACE = """
setting: {model: "doomed:net", dataset: digits, image_size: 8, batch_size: 16, workers: 2, device: cpu}
arms: {one: {engine: torch}, two: {engine: torch, bucket_cap_mb: 1}}
protocol: {warmup_steps: 2, steps: 4, rounds: 2, phases: false, telemetry: false}
repeats: 1
leg_timeout_seconds: 12
"""


def supervised(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the plan of a folder's space under torchrun, in two processes that may import what lies there."""
    commands = Commands(folder)
    (folder / "plan.json").write_text(commands.run("plan", "space=space.yaml", "--json").stdout)
    environment = {**commands.environment, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}"
    arguments = ["--standalone", "--nproc-per-node", "2", "-m", "raybench.training", "plan.json", "ledger=led"]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


@pytest.mark.distributed
@pytest.mark.slow
def test_every_leg_has_a_row_after_one_run(tmp_path: Path) -> None:
    (tmp_path / "doomed.py").write_text(MODEL)
    (tmp_path / "space.yaml").write_text(SPACE)
    done = supervised(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = sorted(pq.read_table(tmp_path / "led").to_pylist(), key=lambda row: row["started_at"])
    assert [row["failure_kind"] for row in rows] == ["timeout", "crashed", "error", None]
    assert "the limit is 12 s" in rows[0]["failure_message"]
    assert rows[1]["failure_message"] == "rank 1: its process died of SIGKILL"
    assert rows[2]["failure_message"].startswith("rank 1: ValueError: on this rank alone")
    assert len({row["process_group"] for row in rows}) == 4
    assert rows[3]["status"] == "ok"


FULL = """
import errno, os
from raybench.ledger import dataset

class Full(dataset.Ledger):
    def add(self, *arguments):
        if len(self.leg_ids()) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().add(*arguments)

dataset.Ledger = Full
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_row_that_cannot_be_written_ends_the_run_and_leaves_its_leg_without_an_outcome(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE.replace('"doomed:net"', "lenet").replace(", image_size: 8", ""))
    (tmp_path / "sitecustomize.py").write_text(FULL)
    done = supervised(tmp_path)
    assert done.returncode == 1
    assert "raybench: the ledger cannot be written: [Errno 28] No space left on device; make room there" in done.stderr
    assert [row["status"] for row in pq.read_table(tmp_path / "led").to_pylist()] == ["ok"]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    plan = build_plan(*load_space("quickstart", {"repeats": "1"}), sweep="s")
    return Work(plan, plan.trials, Ledger(tmp_path))


@pytest.mark.parametrize(
    ("codes", "kills", "kind", "words"),
    [
        ([0, -9], 1, "out_of_memory", "rank 1: its process was killed while the kernel's OOM killer was at work"),
        ([0, -9], 0, "crashed", "rank 1: its process died of SIGKILL"),
        ([-11, 1], 1, "crashed", "rank 0: its process died of SIGSEGV"),
        ([0, 1], 0, "crashed", "rank 1: its process ended with exit code 1"),
    ],
)
def test_the_row_says_how_the_processes_ended(work: Work, codes: list[int], kills: int, kind: str, words: str) -> None:
    store: Any = dist.HashStore()
    assert not supervisor._record(work, store, "g", codes, kills)  # before a leg began
    leg = work.trials[0].legs[0]
    store.set(supervisor.BEGUN, json.dumps({"leg_id": leg.leg_id, "at": time.time()}))
    assert supervisor._record(work, store, "g", codes, kills)
    (row,) = work.ledger.rows()
    assert (row["leg_id"], row["failure_kind"], row["failure_message"]) == (leg.leg_id, kind, words)
    assert not supervisor._record(work, store, "g", codes, kills)  # it has its row


def test_outside_of_torchrun_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="RANK is not set: start it by torchrun"):
        supervisor.store_of_torchrun()
