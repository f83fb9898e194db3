"""From `ray up cluster.onprem.yaml` to nothing left: a real cluster over ssh, on three hosts made of namespaces.

The file is the one that users get, with the hosts' addresses put in, and the installation of raybench replaced by this
environment, which the hosts see. A sweep whose trials span both workers loses one to a power failure, and is resumed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from raybench.ledger.reading import read_ledger
from tests.cluster.hosts import BRIDGE, Host, hosts, what_is_missing
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAY = Path(sys.prefix) / "bin/ray"
WORDS = "space=quickstart setting.model=lenet setting.nodes=2 protocol.rounds=1 protocol.steps=40"
SWEEP = (
    f"cd ~/raybench && python -m raybench.sweep {WORDS} repeats=2 sweep=up wait=0.3 --verbose > ~/sweep.txt 2>&1; "
    "echo exit code $? >> ~/sweep.txt"
)
PLAN = f"cd ~/raybench && python -m raybench.plan {WORDS} repeats=100 price=5.67"
LEGS = 6
_COUNT = (
    "import ray; ray.init(address='auto', log_to_driver=False, logging_level='error'); "
    "print('ALIVE', sum(node['Alive'] for node in ray.nodes()))"
)


class Laptop:
    """A user's machine outside of the cluster, with a home of its own: what `ray ...` does there."""

    def __init__(self, folder: Path, head: Host, workers: list[Host], key: Path) -> None:
        self.folder, self.key = folder, key
        (folder / "tmp").mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PYTHON"))}
        self.environment = {
            **kept, "HOME": str(folder), "TMPDIR": str(folder / "tmp"), "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.cluster = folder / "cluster.yaml"
        self.cluster.write_text(yaml.safe_dump(_with_values_of(head, workers, key, folder)))

    def ray(self, *words: str, timeout: float = 240) -> str:
        """Run `ray ...` to its end; returns what it printed. Fails the test where it fails."""
        done = subprocess.run(
            [RAY, *words], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"ray {' '.join(words)}\n{done.stdout}"
        return done.stdout

    def exec(self, command: str, timeout: float = 240) -> str:
        """Run a command on the head, as `ray exec` does."""
        return self.ray("exec", str(self.cluster), command, timeout=timeout)

    def start(self, *words: str, output: Path) -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            return subprocess.Popen(
                [RAY, *words], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def ssh(self, host: Host, command: str) -> None:
        """Run a command on a host, past Ray."""
        options = ["-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        subprocess.run(["ssh", *options, f"root@{host.address}", command], check=True, capture_output=True, timeout=60)

    def num_nodes(self) -> int:
        found = re.search(r"ALIVE (\d+)", self.exec(f'python -c "{_COUNT}"'))
        assert found
        return int(found[1])

    @contextmanager
    def port_of_the_head(self, port: int) -> Iterator[str]:
        """The address at which a port of the head is to be reached here meanwhile."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            here = free.getsockname()[1]
        words = ["dashboard", str(self.cluster), "--port", str(here), "--remote-port", str(port)]
        forward = self.start(*words, output=self.folder / "forward.txt")
        try:
            _wait_for(lambda: _answers(here), 60, "the port is not forwarded")
            yield f"http://127.0.0.1:{here}"
        finally:
            os.killpg(forward.pid, signal.SIGTERM)
            forward.wait(timeout=30)


def _with_values_of(head: Host, workers: list[Host], key: Path, home: Path) -> dict[str, Any]:
    """cluster.onprem.yaml for these hosts, which see this environment and need not install one."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.onprem.yaml").read_text())
    config["cluster_name"] = "raybench-test"
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config["file_mounts"] = {"~/raybench": str(_tree(home)), "~/.ray/auth_token": str(home / ".ray/auth_token")}
    config["setup_commands"] = [
        "echo 'export PYTHONPATH=~/raybench' >> ~/.raybench" if "pip install" in command else command
        for command in sorted(config["setup_commands"], key=lambda command: "pip install" in command)
    ]
    return config


def _tree(home: Path) -> Path:
    """The files of the working tree that a sweep needs: Ray reads every file of what it copies, twice."""
    tree = home / "raybench"
    tree.mkdir()
    for name in ("raybench", "search_spaces", "pyproject.toml"):
        subprocess.run(["cp", "-r", ROOT / name, tree], check=True)
    return tree


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Laptop, list[Host]]]:
    if os.environ.get("RAYBENCH_TEST_CLUSTER") != "1":
        pytest.skip("make test-cluster runs it")
    if missing := what_is_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("machines")
    before = _of_this_folder(folder)
    assert before == []
    with hosts(folder, ["head", "one", "two"]) as (made, key):
        for host in made:
            (host.disk / "venv").symlink_to(sys.prefix)
        yield Laptop(folder / "laptop", made[0], made[1:], key), made
    _wait_for(lambda: _of_this_folder(folder) == [], 30, lambda: f"left behind: {_of_this_folder(folder)}")
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    assert BRIDGE not in links
    assert str(folder) not in Path("/proc/self/mounts").read_text()


def _of_this_folder(folder: Path) -> list[str]:
    """The command lines of all processes of this machine that have to do with the hosts."""
    lines = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["pid"] != os.getpid():
            lines.append(line)
    return lines


def test_a_cluster_from_ray_up_to_nothing_left(machines: tuple[Laptop, list[Host]]) -> None:
    laptop, (head, one, two) = machines
    began = time.monotonic()

    laptop.ray("get-auth-token", "--generate")
    laptop.ray("up", "--yes", str(laptop.cluster), timeout=300)
    _wait_for(lambda: laptop.num_nodes() == 3, 180, "the workers did not join")
    _say("three nodes", began)

    # Nobody comes in without the token, and nothing but ssh and Ray's own ports is open to the network.
    assert not _joins(laptop, head, token=False)
    assert _joins(laptop, head, token=True)
    assert not _answers(5000, head.address)
    assert not _answers(8265, head.address)

    told = head.disk / "sweep.txt"
    sweep = laptop.start("exec", str(laptop.cluster), SWEEP, output=laptop.folder / "exec.txt")
    # In the middle of the first trial, which has three legs.
    _wait_for(lambda: _num_legs(head) > 0 or sweep.poll() is not None, 240, lambda: told.read_text(), every=0.1)
    assert sweep.poll() is None, told.read_text()
    two.power_off()
    _say(f"{two.name} is off after {_num_legs(head)} legs", began)
    sweep.wait(timeout=300)
    assert "lost node two" in told.read_text()
    assert "did not become available within 18 s" in told.read_text()
    assert "the same command again runs what is missing" in told.read_text()
    assert told.read_text().endswith("exit code 1\n")
    _say("the sweep ended", began)

    two.power_on()
    _wait_for(lambda: laptop.num_nodes() == 3, 180, "the worker did not come back")
    _say("three nodes again", began)
    laptop.exec(SWEEP, timeout=300)
    assert re.search(rf"resumed: [1-5] of {LEGS} legs are in the ledger", told.read_text())
    assert told.read_text().endswith("exit code 0\n")
    _say("resumed", began)
    planned = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", laptop.exec(PLAN)).split())
    assert "a Ray cluster of 3 nodes" in planned
    assert re.search(r"Cost: about \d", planned), planned

    fetched = laptop.folder / "fetched"
    fetched.mkdir()
    laptop.ray("rsync-down", str(laptop.cluster), "~/raybench/mlruns/ledger/quickstart/up/", f"{fetched}/")
    _holds_all_that_was_measured(fetched, {one.name, two.name})
    with laptop.port_of_the_head(5000) as address:
        assert _runs_of_mlflow(address) > LEGS
    _say("fetched", began)

    laptop.ssh(head, "pkill -f '[m]lflow server'")
    laptop.ray("down", "--yes", str(laptop.cluster))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: laptop.ssh(host, "source ~/.raybench; ray stop"), (one, two)))
    for host in (head, one, two):
        _wait_for(lambda host=host: not host.processes(), 30, lambda host=host: f"{host.name}: {host.processes()}")
    _say("down", began)


def _holds_all_that_was_measured(folder: Path, names: set[str]) -> None:
    """Every leg once, each trial on one set of hosts, both hosts in each; the report is there."""
    rows = read_ledger(folder).to_pylist()
    assert len(rows) == LEGS
    assert {row["status"] for row in rows} == {"ok"}
    assert (folder / "_report/report.html").exists()
    for trial in {row["trial_id"] for row in rows}:
        places = {row["placement"] for row in rows if row["trial_id"] == trial}
        assert len(places) == 1, "a trial has its legs on the same machines"
        assert {rank["node"] for rank in json.loads(places.pop())} == names


def _joins(laptop: Laptop, head: Host, *, token: bool) -> bool:
    """Whether somebody on the network can use the cluster."""
    environment = {**laptop.environment, "RAY_AUTH_MODE": "token" if token else "disabled"}
    status = [RAY, "status", "--address", f"{head.address}:6379"]
    done = subprocess.run(status, env=environment, capture_output=True, timeout=120, check=False)
    return done.returncode == 0


def _num_legs(head: Host) -> int:
    """How many legs are in the ledger on the head's disk."""
    folder = head.disk / "raybench/mlruns/ledger/quickstart/up"
    return len(read_ledger(folder, ["leg_id"])) if list(folder.glob("*.parquet")) else 0


def _runs_of_mlflow(address: str) -> int:
    query = json.dumps({"experiment_ids": ["1"], "max_results": 1000}).encode()
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/runs/search", data=query, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return len(json.load(answer).get("runs", []))


def _answers(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _wait_for(
    condition: Callable[[], bool], seconds: float, failure: str | Callable[[], str], every: float = 1.0
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure if isinstance(failure, str) else failure()
        time.sleep(every)


def _say(what: str, began: float) -> None:
    print(f"{time.monotonic() - began:4.0f} s: {what}")
