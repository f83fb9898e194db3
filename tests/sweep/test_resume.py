"""A driver killed half-way loses nothing: the same command runs what is missing, and each leg has one row."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ARGUMENTS = [
    "space=quickstart", "sweep=r", "setting.model=lenet", "repeats=2", "protocol.warmup_steps=2", "protocol.steps=6",
    "protocol.rounds=1",
]  # fmt: skip


def test_killed_and_resumed(tmp_path: Path) -> None:
    commands = Commands(tmp_path, "local")  # a Ray of its own, which dies with the driver
    folder = tmp_path / "mlruns/ledger/quickstart/r"
    driver = commands.start("sweep", *ARGUMENTS)
    deadline = time.monotonic() + 300
    while len(list(folder.glob("*.parquet"))) < 2:
        assert driver.poll() is None, (tmp_path / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {file.name: file.read_bytes() for file in folder.glob("*.parquet")}
    assert 2 <= len(kept) < 6

    done = commands.run("sweep", *ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"resumed: (\d) of 6 legs are in the ledger; (\d) to run", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) >= len(kept)
    rows = pq.read_table(folder).to_pylist()
    plan = json.loads(commands.run("plan", *ARGUMENTS, "--json").stdout)
    assert sorted(row["leg_id"] for row in rows) == sorted(
        leg["leg_id"] for trial in plan["trials"] for leg in trial["legs"]
    )
    assert all((folder / name).read_bytes() == content for name, content in kept.items())
    assert not list(folder.glob(".*"))

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`raybench.kind` = 'leg'")
    assert sorted(run.data.tags["raybench.leg_id"] for run in runs) == sorted(row["leg_id"] for row in rows)
