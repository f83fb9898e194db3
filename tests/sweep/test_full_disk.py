"""The disk of the ledger is full: what was measured stays whole, the sweep ends in a line, and goes on with room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raybench.ledger.dataset import Ledger
from tests.conftest import command_environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ARGUMENTS = [
    "space=quickstart", "sweep=f", "setting.model=lenet", "repeats=2", "protocol.warmup_steps=2", "protocol.steps=6",
    "protocol.rounds=1",
]  # fmt: skip
PRIVATE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
# All in one mount namespace: a small disk at $1, a sweep on it, what it left, the same sweep with room.
SCRIPT = """
disk=$1; shift
mount -t tmpfs -o size=4m tmpfs "$disk" || exit 90
dd if=/dev/zero of="$disk/filler" bs=1k count=FILLER 2> /dev/null
"$@" > first.txt 2>&1; echo $? > first.code
cp -a "$disk/quickstart" kept
mount -o remount,size=64m "$disk"
"$@" > second.txt 2>&1; echo $? > second.code
cp -a "$disk/quickstart" whole
"""
FILLER = 3990  # KiB of 4096: room for a few legs, of six in all


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    for name in ("disk", "kept", "whole"):
        (folder / name).mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder / "disk")]
    probe = subprocess.run([*PRIVATE, *mount], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.decode().strip()}")
    sweep = [sys.executable, "-m", "raybench.sweep", *ARGUMENTS, "results=disk"]
    done = subprocess.run(
        [*PRIVATE, "sh", "-c", SCRIPT.replace("FILLER", str(FILLER)), "sh", "disk", *sweep],
        cwd=folder, env=command_environment(RAY_ADDRESS="local"), capture_output=True, text=True, timeout=1500,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_sweep_ends_in_a_line_that_says_what_to_do(folder: Path) -> None:
    told = (folder / "first.txt").read_text()
    assert (folder / "first.code").read_text() == "1\n", told
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("raybench: the ledger cannot be written: No space left on device"), told
    assert str(folder / "disk") in last
    assert "make room" in last
    assert "the same command runs the others: python -m raybench.sweep space=quickstart" in last


def test_what_was_measured_is_whole_and_nothing_torn_is_left(folder: Path) -> None:
    kept = folder / "kept/quickstart/f"
    rows = Ledger(kept).rows()
    assert 1 <= len(rows) < 6
    assert {row["status"] for row in rows} == {"ok"}
    assert [path.name for path in kept.rglob("*") if path.name.endswith(".writing")] == []
    assert not list((folder / "kept/quickstart").glob(".*"))


def test_with_room_the_same_command_goes_on(folder: Path) -> None:
    told = (folder / "second.txt").read_text()
    assert (folder / "second.code").read_text() == "0\n", told
    before, after = Ledger(folder / "kept/quickstart/f").rows(), Ledger(folder / "whole/quickstart/f").rows()
    assert f"resumed: {len(before)} of 6 legs are in the ledger" in told
    assert len({row["leg_id"] for row in after}) == len(after) == 6
    kept = {row["leg_id"]: row for row in after}
    assert all(kept[row["leg_id"]]["step_seconds"] == row["step_seconds"] for row in before)
    assert pq.read_table(folder / "whole/quickstart/f").num_rows == 6
