"""A /dev/shm that is too small for the loader's batches: a failure that says so; the next leg goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raybench.training.failures import classify, describe
from tests.conftest import Commands

SPACE = """
setting: {model: lenet, dataset: synthetic_loader, batch_size: 1024, workers: 1, loader_workers: 1}
differs: [loader_workers]
arms:
  ddp: {engine: torch}
  without: {engine: torch, setting: {loader_workers: 0}}
protocol: {warmup_steps: 1, steps: 5, rounds: 1, telemetry: false}
repeats: 1
"""
PRIVATE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
SMALL = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"'


@pytest.mark.slow
@pytest.mark.distributed
def test_a_batch_that_does_not_fit_is_a_failure_that_names_the_folder(tmp_path: Path) -> None:
    small = [*PRIVATE, "sh", "-c", SMALL, "sh"]
    probe = subprocess.run([*small, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no /dev/shm of its own can be made here: {probe.stderr.strip()}")
    commands = Commands(tmp_path)
    (tmp_path / "shm.yaml").write_text(SPACE)
    planned = commands.run("plan", "space=shm.yaml", "--json")
    assert planned.returncode == 0, planned.stderr
    (tmp_path / "plan.json").write_text(planned.stdout)
    done = subprocess.run(
        [*small, sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m",
         "raybench.training", "plan.json", "ledger=led"],
        cwd=tmp_path, env={**commands.environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["arm"]: row for row in pq.read_table(tmp_path / "led").to_pylist()}
    failed = rows["ddp"]
    assert failed["failure_kind"] == "out_of_memory", failed["failure_message"]
    assert "/dev/shm is too small for the loader's batches" in failed["failure_message"]
    assert "of 4 MiB free" in failed["failure_message"]
    assert "setting.loader_workers" in failed["failure_message"]
    assert rows["without"]["status"] == "ok", rows["without"]["failure_message"]


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...", True),
        ("unable to write to file </torch_23_17_0>: No space left on device (28)", True),
        ("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)", True),
        ("[Errno 28] No space left on device: '/data/cache.bin'", False),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", False),
    ],
)
def test_what_torch_says_of_a_full_shared_memory(text: str, full: bool) -> None:
    error = RuntimeError(text)
    assert (classify(error) == "out_of_memory") is full
    assert describe(error).startswith("/dev/shm is too small") is full
    assert text.split(".")[0] in describe(error)
