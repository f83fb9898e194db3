"""A cluster that is only a head until a sweep wants nodes: Ray's own autoscaler, as `ray up` starts it, whose nodes are
processes of this machine. Of two types that differ in their labels, one comes, and the other is never granted."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.ledger.dataset import Ledger
from tests.conftest import Commands, command_environment
from tests.sweep.processes import MARK, end_all, wait_until_up

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

HEAD_ID = "f" * 51 + "00000"  # the provider numbers its nodes from it on
SPACE = """
setting:
  {model: lenet, dataset: digits, batch_size: 16, workers: 1,
   accelerator: T4, node_labels: [{market: spot}, {market: reserved}]}
arms: {ddp: {engine: torch}, fsdp: {engine: fsdp}}
protocol: {warmup_steps: 2, steps: 10, rounds: 1, telemetry: false}
repeats: 1
"""


def config(address: str) -> dict[str, object]:
    """The autoscaler's config: two types of workers, both from zero."""
    each = {"min_workers": 0, "max_workers": 1, "resources": {"CPU": 2, "bench_slot": 1, "accelerator_type:T4": 1}}
    setup = [f"{whose}setup_commands" for whose in ("", "head_", "worker_")]
    start = [f"{whose}start_ray_commands" for whose in ("head_", "worker_")]
    unused: dict[str, object] = {key: [] for key in [*setup, *start, "initialization_commands", "cluster_synced_files"]}
    return unused | {
        "auth": {}, "docker": {}, "file_mounts": {}, "upscaling_speed": 1.0, "file_mounts_sync_continuously": False,
        "cluster_name": "scaling", "max_workers": 2, "idle_timeout_minutes": 10,
        "provider": {
            "type": "external", "module": "tests.cluster.provider.Provider", "gcs_address": address,
            "head_node_id": HEAD_ID, "launch_multiple": True, "disable_node_updaters": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "given": {"labels": {"market": "spot"}, "node_config": {}, **each},
            "refused": {"labels": {"market": "reserved"}, "node_config": {"quota": 0}, **each},
        },
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands on a cluster of a head and an autoscaler, which ends with the test."""
    import ray

    mark, token = uuid.uuid4().hex, uuid.uuid4().hex
    host, port = ray.util.get_node_ip_address(), free_port()
    commands = Commands(tmp_path, f"{host}:{port}")
    commands.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": str(tmp_path)}
    (tmp_path / "scaling.json").write_text(json.dumps(config(f"{host}:{port}")))
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:  # short: Ray's sockets lie below it
        words = [
            str(Path(sys.prefix) / "bin/ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
            f"--temp-dir={folder}", f"--autoscaling-config={tmp_path}/scaling.json", "--include-dashboard=false",
            "--disable-usage-stats", "--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}",
        ]  # fmt: skip
        environment = command_environment(
            **{MARK: mark}, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, HOME=str(tmp_path),
            RAY_enable_autoscaler_v2="1", RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1",
            RAY_CLOUD_INSTANCE_ID=HEAD_ID, RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID,
        )  # fmt: skip
        with (tmp_path / "head.txt").open("w") as log:
            head = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_until_up(head, tmp_path / "head.txt")
            yield commands
        finally:
            end_all(mark)  # the nodes that the autoscaler started too, which are processes of another session
            head.wait()


def test_nodes_come_from_zero_and_what_is_never_granted_ends_with_a_line(commands: Commands) -> None:
    (commands.folder / "grows.yaml").write_text(SPACE)
    planned = commands.run("plan", "space=grows.yaml")
    assert planned.returncode == 0, planned.stderr
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", planned.stdout).split())
    assert "a Ray cluster of 1 node and 2 more that its autoscaler can start" in words

    refused = commands.run("sweep", "space=grows.yaml", "setting.accelerator=A100")
    assert refused.returncode == 2
    assert "setting.accelerator: no node has 'A100'; there is T4" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    refused = commands.run("sweep", "space=grows.yaml", "setting.node_labels=[{market: block}]")
    assert refused.returncode == 2
    assert "no node has market=block; there is market=reserved, market=spot" in refused.stderr

    done = commands.run("sweep", "space=grows.yaml", "sweep=s", "wait=0.75", timeout=500)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    waiting = r"waiting for 1 node with T4, 1 CPU and a bench_slot, labelled market=(spot|reserved): .* at most 45 s"
    assert re.search(waiting, done.stdout), done.stdout
    rows = Ledger(commands.folder / "mlruns/ledger/grows/s").rows()
    assert {(row["arm"], row["status"]) for row in rows} == {("ddp", "ok"), ("fsdp", "ok")}
    assert {json.loads(row["placement"])[0]["node"] for row in rows} == {socket.gethostname()}
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("not run: "))
    reserved = "1 node with T4, 1 CPU and a bench_slot, labelled market=reserved"
    assert re.search(rf"{reserved} did not become available within 4[5-9] s", line), line
    assert done.stderr.strip().startswith("raybench: 1 of 2 trials could not be run to their end")
