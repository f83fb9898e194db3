"""What goes wrong in a leg is a row with its cause; the other legs of the trial still run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = """
setting: {model: "faulty:net", dataset: digits, batch_size: 32, workers: 2}
differs: [model_options]
arms:
  ddp: {engine: torch}
  zero1: {engine: deepspeed, config: {zero_optimization: {stage: 1}}}
  raises: {engine: torch, setting: {model_options: {fault: raise}}}
  raises_alone: {engine: torch, setting: {model_options: {fault: raise, only_rank: 1}}}
  exits: {engine: torch, setting: {model_options: {fault: exit, only_rank: 1}}}
  sleeps: {engine: torch, setting: {model_options: {fault: sleep, only_rank: 0}}}
  memory: {engine: torch, setting: {model_options: {fault: memory}}}
  nan: {engine: torch, setting: {model_options: {fault: nan}}}
  refused: {engine: deepspeed, config: {zero_optimization: {stage: 1, reduce_bucket_size: -5}}}
protocol: {warmup_steps: 2, steps: 5, rounds: 1}
repeats: 1
leg_timeout_seconds: 25
"""
EXPECTED = {
    "raises": ("error", "planted trouble"),
    "raises_alone": ("error", "rank 1: RuntimeError: planted trouble"),
    "exits": ("crashed", "rank 1: its process died"),
    "sleeps": ("timeout", "the limit is 25 s"),
    "memory": ("out_of_memory", "planted: out of memory"),
    "nan": ("not_finite", "the loss of step 2 is nan"),
    "refused": ("invalid_config", "DeepSpeed: "),
}


def folder_with(tmp: Path, space: str) -> Path:
    (tmp / "faults.yaml").write_text(space)
    shutil.copy(Path(__file__).parent / "faulty.py", tmp)
    return tmp


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> tuple[Any, list[dict]]:
    commands = Commands(folder_with(tmp_path_factory.mktemp("faults"), SPACE), ray_address)
    done = commands.run("sweep", "space=faults.yaml", "sweep=f")
    assert done.returncode == 0, done.stdout + done.stderr
    return done, pq.read_table(commands.folder / "mlruns/ledger/faults/f").to_pylist()


def test_every_leg_has_its_row_and_the_sweep_ends_well(swept: tuple[Any, list[dict]]) -> None:
    done, rows = swept
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert {row["arm"] for row in rows} == {"ddp", "zero1", *EXPECTED}
    assert {row["arm"]: row["status"] for row in rows if row["arm"] in ("ddp", "zero1")} == {"ddp": "ok", "zero1": "ok"}


@pytest.mark.parametrize("arm", EXPECTED)
def test_a_failure_has_kind_and_cause(swept: tuple[Any, list[dict]], arm: str) -> None:
    done, rows = swept
    kind, words = EXPECTED[arm]
    (row,) = (row for row in rows if row["arm"] == arm)
    assert row["status"] == "failed"
    assert (row["failure_kind"], words in row["failure_message"]) == (kind, True), row["failure_message"]
    assert row["step_seconds"] is None
    assert row["environment"] != "{}"
    assert f"| {arm} | repeat 0 round 0: failed: {kind}" in done.stdout


def test_a_sweep_that_measured_nothing_exits_1(tmp_path: Path, ray_address: str) -> None:
    space = """
setting: {model: "faulty:net", dataset: digits, batch_size: 32, model_options: {fault: raise}}
arms: {ddp: {engine: torch}, zero0: {engine: deepspeed}}
protocol: {warmup_steps: 1, steps: 5, rounds: 1}
repeats: 1
"""
    commands = Commands(folder_with(tmp_path, space), ray_address)
    done = commands.run("sweep", "space=faults.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.strip() == "raybench: nothing could be measured: 2 legs failed, 0 trials could not run"
    assert "both failed" in done.stdout
    again = commands.run("sweep", "space=faults.yaml")
    assert again.returncode == 1
    assert "0 to run" in again.stdout


def test_more_workers_than_there_are_is_found_before_anything_starts(tmp_path: Path, ray_address: str) -> None:
    commands = Commands(tmp_path, ray_address)
    done = commands.run("sweep", "space=quickstart", "setting.workers=64", "setting.batch_size=64")
    assert done.returncode == 2
    assert "64 workers need 64 CPUs on one node, and there are 2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
