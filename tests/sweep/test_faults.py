"""What goes wrong in a leg is a row with its cause; the other legs of the trial still run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raybench.ledger.dataset import Ledger
from tests.conftest import Commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = """
setting: {model: "faulty:net", dataset: digits, batch_size: 32, workers: 2}
differs: [model_options, communication_dtype]
arms:
  ddp: {engine: torch}
  zero1: {engine: deepspeed, config: {zero_optimization: {stage: 1}}}
  raises: {engine: torch, setting: {model_options: {fault: raise}}}
  raises_alone: {engine: torch, setting: {model_options: {fault: raise, only_rank: 1}}}
  segfaults: {engine: torch, setting: {model_options: {fault: segfault, only_rank: 1}}}
  killed: {engine: torch, setting: {model_options: {fault: kill, only_rank: 0}}}
  sleeps: {engine: torch, setting: {model_options: {fault: sleep, only_rank: 0}}}
  skips: {engine: torch, setting: {model_options: {fault: skip, only_rank: 1}}}
  memory: {engine: torch, setting: {model_options: {fault: memory}}}
  nan: {engine: torch, setting: {model_options: {fault: nan}}}
  refused: {engine: deepspeed, config: {zero_optimization: {stage: 1}, communication_data_type: fp8}}
protocol: {warmup_steps: 2, steps: 5, rounds: 1}
repeats: 1
leg_timeout_seconds: 25
"""
OOM_KILLED = "  oom_killed: {engine: torch, setting: {model_options: {fault: cgroup, only_rank: 1, file: PROCESSES}}}\n"
EXPECTED = {
    "raises": ("error", "planted trouble"),
    "raises_alone": ("error", "rank 1: RuntimeError: planted trouble"),
    "segfaults": ("crashed", "rank 1: its process died of SIGSEGV"),
    "killed": ("crashed", "rank 0: its process died"),
    "sleeps": ("timeout", "the limit is 25 s"),
    "skips": ("timeout", "the limit is 25 s"),
    "memory": ("out_of_memory", "can't allocate memory: you tried to allocate 16777216 bytes"),
    "oom_killed": ("out_of_memory", "the kernel's OOM killer"),
    "nan": ("not_finite", "the loss of step 2 is nan"),
    "refused": ("invalid_config", "DeepSpeed: "),
}
CGROUPS = Path("/sys/fs/cgroup")


def make_cgroup(limit: int) -> Path | None:
    """A control group that may have `limit` bytes of memory; None where none can be made here."""
    name = f"raybench-test-{os.getpid()}"
    first = (CGROUPS / "memory" / name, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    second = (CGROUPS / name, "memory.max", "memory.swap.max")
    group, memory, swap = first if first[0].parent.exists() else second
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        if group.parent == CGROUPS:
            (CGROUPS / "cgroup.subtree_control").write_text("+memory")
        (group / memory).write_text(str(limit))
        if (group / swap).exists():
            (group / swap).write_text("0" if swap == "memory.swap.max" else str(limit))
    except OSError:
        group.rmdir()
        return None
    return group


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path | None]:
    """A control group of 256 MiB, where root can make one."""
    group = make_cgroup(256 * 2**20)
    yield group
    if group is not None:
        group.rmdir()


def folder_with(tmp: Path, space: str) -> Path:
    (tmp / "faults.yaml").write_text(space)
    shutil.copy(Path(__file__).parent / "faulty.py", tmp)
    return tmp


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_address: str, cgroup: Path | None) -> tuple[Any, list[dict]]:
    planted = "" if cgroup is None else OOM_KILLED.replace("PROCESSES", str(cgroup / "cgroup.procs"))
    space = SPACE.replace("protocol:", f"{planted}protocol:")
    commands = Commands(folder_with(tmp_path_factory.mktemp("faults"), space), ray_address)
    done = commands.run("sweep", "space=faults.yaml", "sweep=f")
    assert done.returncode == 0, done.stdout + done.stderr
    return done, pq.read_table(commands.folder / "mlruns/ledger/faults/f").to_pylist()


def test_every_leg_has_its_row_and_the_sweep_ends_well(swept: tuple[Any, list[dict]]) -> None:
    done, rows = swept
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert {row["arm"] for row in rows} | {"oom_killed"} == {"ddp", "zero1", *EXPECTED}
    assert {row["arm"]: row["status"] for row in rows if row["arm"] in ("ddp", "zero1")} == {"ddp": "ok", "zero1": "ok"}


@pytest.mark.parametrize("arm", EXPECTED)
def test_a_failure_has_kind_and_cause(swept: tuple[Any, list[dict]], arm: str) -> None:
    done, rows = swept
    kind, words = EXPECTED[arm]
    if arm == "oom_killed" and not any(row["arm"] == arm for row in rows):
        pytest.skip("no control group with a limit of memory can be made here")
    (row,) = (row for row in rows if row["arm"] == arm)
    assert row["status"] == "failed"
    assert (row["failure_kind"], words in row["failure_message"]) == (kind, True), row["failure_message"]
    assert row["step_seconds"] is None
    assert row["environment"] != "{}"
    assert ("log" in json.loads(row["environment"])) == (arm == "segfaults")
    assert f"| {arm} | repeat 0 round 0: failed: {kind}" in done.stdout


def test_a_sweep_that_measured_nothing_exits_1_and_its_failed_legs_are_tried_again(
    tmp_path: Path, ray_address: str
) -> None:
    mended = tmp_path / "mended"
    space = f"""
setting: {{model: "faulty:net", dataset: digits, batch_size: 32, model_options: {{fault: raise, file: {mended}}}}}
arms: {{ddp: {{engine: torch}}, zero0: {{engine: deepspeed}}}}
protocol: {{warmup_steps: 1, steps: 5, rounds: 1}}
repeats: 1
"""
    commands = Commands(folder_with(tmp_path, space), ray_address)
    done = commands.run("sweep", "space=faults.yaml", "sweep=again")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.strip() == "raybench: nothing could be measured: 2 legs failed, 0 trials could not run"
    assert "zero0 failed, and so did the baseline" in " ".join(done.stdout.split())
    again = commands.run("sweep", "space=faults.yaml", "sweep=again")
    assert again.returncode == 1
    assert "0 to run" in again.stdout

    mended.touch()
    tried = commands.run("sweep", "space=faults.yaml", "sweep=again", "retry=failed")
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "retried: 2 failed legs run again" in tried.stdout
    ledger = Ledger(tmp_path / "mlruns/ledger/faults/again")
    assert {row["arm"]: row["status"] for row in ledger.rows()} == {"ddp": "ok", "zero0": "ok"}
    assert [row["status"] for row in ledger.withdrawn()] == ["failed", "failed"]
    # Nothing failed: there is nothing to try again, and what was measured stays.
    nothing = commands.run("sweep", "space=faults.yaml", "sweep=again", "retry=failed")
    assert nothing.returncode == 0
    assert "0 to run" in nothing.stdout
    assert len(ledger.withdrawn()) == 2


def test_more_workers_than_there_are_is_found_before_anything_starts(tmp_path: Path, ray_address: str) -> None:
    commands = Commands(tmp_path, ray_address)
    done = commands.run("sweep", "space=quickstart", "setting.workers=64", "setting.batch_size=64")
    assert done.returncode == 2
    assert "64 workers need 64 CPUs on one node, and there are 2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
