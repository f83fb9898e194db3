"""A node that dies under a trial: the trial begins anew on another one. The head that dies: the sweep ends, and goes on
when there is one again."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from raybench.ledger.dataset import Ledger
from tests.conftest import Commands

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ARGUMENTS = [
    "space=quickstart", "sweep=n", "setting.model=lenet", "setting.workers=1", "repeats=1", "protocol.warmup_steps=2",
    "protocol.steps=150",
]  # fmt: skip


@pytest.fixture
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """Starts Ray clusters on this machine, a head and nodes with a slot each, by name; they end with the test."""
    from ray.cluster_utils import Cluster

    clusters = []

    def start(head_cpus: int, *names: str) -> Cluster:
        head = {"num_cpus": head_cpus, "node_name": "head", "include_dashboard": False}
        if head_cpus:
            head["resources"] = {"bench_slot": 1}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        clusters.append(cluster)
        for name in names:
            cluster.add_node(num_cpus=2, resources={"bench_slot": 1}, node_name=name)
        return cluster

    yield start
    for cluster in clusters:
        cluster.shutdown()


def commands_on(cluster: Cluster, folder: Path) -> Commands:
    """Commands that join a cluster of this process, in its mode of authentication."""
    commands = Commands(folder, cluster.address)
    commands.environment["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "disabled")
    return commands


def wait_for_rows(folder: Path, number: int, driver: subprocess.Popen[str]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 900
    while len(list(folder.glob("*.parquet"))) < number:
        told = (folder.parents[3] / "output.txt").read_text()
        assert driver.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return [pq.read_table(file).to_pylist()[0] for file in folder.glob("*.parquet")]


def test_a_trial_whose_node_dies_begins_anew_on_another(tmp_path: Path, start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(0, "north", "south")
    commands = commands_on(cluster, tmp_path)
    folder = tmp_path / "mlruns/ledger/quickstart/n"
    driver = commands.start("sweep", *ARGUMENTS)
    try:
        (row, *_) = wait_for_rows(folder, 2, driver)
        first = json.loads(row["placement"])[0]["node"]
        assert first in ("north", "south")
        node = next(node for node in cluster.worker_nodes if node._ray_params.node_name == first)
        cluster.remove_node(node, allow_graceful=False)
        assert driver.wait(timeout=600) == 0, (tmp_path / "output.txt").read_text()
    finally:
        driver.kill()
    told = (tmp_path / "output.txt").read_text()
    second = ({"north", "south"} - {first}).pop()
    assert f"lost node {first}; " in told
    assert f"begins anew on {second}; " in told
    assert "Traceback" not in told
    rows = pq.read_table(folder).to_pylist()
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"ok"}
    assert {(row["attempt"], json.loads(row["placement"])[0]["node"]) for row in rows} == {(1, second)}
    withdrawn = Ledger(folder).withdrawn()
    assert 2 <= len(withdrawn) < 6
    assert {(row["attempt"], json.loads(row["placement"])[0]["node"]) for row in withdrawn} == {(0, first)}
    assert commands.run("verify", str(folder)).returncode == 0


def test_without_its_head_a_sweep_ends_and_the_same_command_goes_on(
    tmp_path: Path, start_cluster: Callable[..., Cluster]
) -> None:
    cluster = start_cluster(2)
    commands = commands_on(cluster, tmp_path)
    folder = tmp_path / "mlruns/ledger/quickstart/n"
    driver = commands.start("sweep", *ARGUMENTS)
    try:
        wait_for_rows(folder, 2, driver)
        killed = time.monotonic()
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        assert driver.wait(timeout=120) == 1, (tmp_path / "output.txt").read_text()
    finally:
        driver.kill()
    told = (tmp_path / "output.txt").read_text()
    assert time.monotonic() - killed < 90
    assert "Traceback" not in told
    kept = Ledger(folder).leg_ids()
    (line,) = (line for line in told.splitlines() if line.startswith("raybench: the Ray cluster"))
    assert f"no longer answers; what was measured is kept in {folder}, and the same command runs the rest" in line
    assert line == told.splitlines()[-1]
    assert not list(folder.parent.glob(".ray*"))

    again = start_cluster(2)
    commands = commands_on(again, tmp_path)
    done = commands.run("sweep", *ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resumed: {len(kept)} of 6 legs are in the ledger" in done.stdout
    rows = Ledger(folder).rows()
    assert len(rows) == 6
    assert {(row["status"], row["attempt"]) for row in rows} == {("ok", 0)}
