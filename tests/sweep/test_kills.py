"""SIGKILL to each of the processes around the legs: the sweep goes on, every leg has one row, and none is a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Commands
from tests.sweep.processes import MARK, assert_nothing_is_left, find, kill, processes_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ARGUMENTS = [
    "space=quickstart", "sweep=k", "setting.model=lenet", "setting.workers=1", "repeats=1", "protocol.warmup_steps=2",
    "protocol.steps=150",
]  # fmt: skip


def marked(folder: Path) -> tuple[Commands, str, Path]:
    """Commands on a Ray of their own, the mark that their processes carry, and the sweep's ledger."""
    commands, mark = Commands(folder, "local"), uuid.uuid4().hex
    commands.environment[MARK] = mark
    return commands, mark, folder / "mlruns/ledger/quickstart/k"


def wait_for(driver: subprocess.Popen[str], ledger: Path, rows: int, output: Path) -> None:
    deadline = time.monotonic() + 900
    while len(list(ledger.glob("*.parquet"))) < rows:
        assert driver.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.02)


def test_the_recorder_and_the_trial_are_killed(tmp_path: Path) -> None:
    commands, mark, folder = marked(tmp_path)
    driver = commands.start("sweep", *ARGUMENTS)

    def wait_for_rows(number: int) -> None:
        wait_for(driver, folder, number, tmp_path / "output.txt")

    try:
        for number, process in [(1, "ray::Recorder"), (2, "ray::BlockRunner")]:
            wait_for_rows(number)
            workers = find(mark, "ray::RayTrainWorker")
            kill(mark, process)
            if process != "ray::Recorder":
                while not (now := set(find(mark, "ray::RayTrainWorker"))) - set(workers):
                    assert driver.poll() is None, (tmp_path / "output.txt").read_text()
                    time.sleep(0.1)
                assert not now & set(workers)  # gone before the next group was there
            wait_for_rows(number + 1)
        assert driver.wait(timeout=600) == 0, (tmp_path / "output.txt").read_text()
    finally:
        driver.kill()
    told = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in told
    assert "note: the recorder was killed; a new one continues from the ledger" in told
    assert "its trial process was killed" in told
    assert told.count(" ms a step") == 6  # each leg is told once
    rows = pq.read_table(folder).to_pylist()
    plan = json.loads(commands.run("plan", *ARGUMENTS, "--json").stdout)
    planned = [leg["leg_id"] for trial in plan["trials"] for leg in trial["legs"]]
    assert sorted(row["leg_id"] for row in rows) == sorted(planned)
    assert {(row["status"], row["attempt"]) for row in rows} == {("ok", 0)}
    assert not (folder / "_aside").exists()
    assert commands.run("verify", str(folder)).returncode == 0
    assert_nothing_is_left(mark, folder.parent, "k")


def test_the_gcs_of_a_sweeps_own_ray_is_killed(tmp_path: Path) -> None:
    commands, mark, folder = marked(tmp_path)
    driver = commands.start("sweep", *ARGUMENTS)
    try:
        wait_for(driver, folder, 1, tmp_path / "output.txt")
        (gcs,) = (number for number, line in processes_of(mark).items() if line.split()[0].endswith("/gcs_server"))
        os.kill(gcs, signal.SIGKILL)
        assert driver.wait(timeout=60) == 1
    finally:
        driver.kill()
    told = (tmp_path / "output.txt").read_text()
    assert told.splitlines()[-1].startswith("raybench: the Ray that this sweep started no longer answers; what was")
    assert "Traceback" not in told
    deadline = time.monotonic() + 10
    while processes_of(mark):
        assert time.monotonic() < deadline, processes_of(mark)
        time.sleep(0.2)
    again = commands.run("sweep", *ARGUMENTS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [row["status"] for row in pq.read_table(folder).to_pylist()] == ["ok"] * 6
    assert_nothing_is_left(mark, folder.parent, "k")
