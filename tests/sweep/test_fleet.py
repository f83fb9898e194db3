"""A sweep on several nodes: sizes side by side, nodes that join, that are taken, and that are of another version."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, Commands
from tests.sweep.processes import wait_until_up
from tests.sweep.test_node_loss import commands_on

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 16}
variants:
  - {workers: 1}
  - {workers: 2, nodes: 2}
arms: {ddp: {engine: torch}, zero1: {engine: deepspeed, zero: 1}}
protocol: {warmup_steps: 2, steps: 100, rounds: 2, telemetry: false}
repeats: 2
"""
SHARED = """
setting: {model: lenet, dataset: digits, batch_size: 16, workers: 1, accelerator: A100}
arms: {ddp: {engine: torch}, fsdp: {engine: fsdp}}
protocol: {warmup_steps: 2, steps: 500, rounds: 2, telemetry: false}
repeats: 2
slots_per_node: 2
"""
# Takes the slots of a cluster, as somebody else's job would, and says when it has them.
TAKER = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
group = ray.util.placement_group([{"bench_slot": 1}] * int(sys.argv[2]), strategy="STRICT_SPREAD")
ray.get(group.ready())
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that trains nothing, and two nodes with two CPUs and a slot each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "node_name": "head", "include_dashboard": False}
    )
    add(cluster, "n1")
    add(cluster, "n2")
    yield cluster
    cluster.shutdown()


def add(cluster: Cluster, name: str, env_vars: dict[str, str] | None = None, **more: float) -> Any:
    """Start a node with `more` resources; Ray waits half a minute for one, and a busy machine may need more."""
    resources = {"bench_slot": 1, **more}
    for _ in range(3):
        try:
            return cluster.add_node(num_cpus=2, resources=resources, node_name=name, env_vars=env_vars)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    pytest.fail(f"node {name} does not come up")


def refusal(commands: Commands, *arguments: str, within: Sequence[str] = ()) -> str:
    """The line of a sweep that does not begin; `within`: the words of a command that starts it."""
    done = subprocess.run(
        [*within, sys.executable, "-m", "raybench.sweep", "space=sizes.yaml", "sweep=f", "--quiet", *arguments],
        cwd=commands.folder, env=commands.environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert not list(commands.folder.rglob("*.parquet"))
    assert not (commands.folder / "mlruns/ledger").exists()
    return line


def test_what_the_cluster_cannot_do_is_told_before_the_first_leg(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text(SPACE)
    commands = commands_on(cluster, tmp_path)
    told = refusal(commands, "setting.device=cuda")
    assert "asks for cuda, and there is no GPU (a Ray cluster of 3 nodes: 2 CPUs, no GPU on its largest node)" in told
    told = refusal(commands, 'variants=[{"workers": 3, "nodes": 3, "batch_size": 18}]')
    assert "needs 3 nodes with 1 CPU and a bench_slot each, but 2 of the nodes can run it: 2 nodes with 2 CP" in told
    told = refusal(commands, "setting.dataset=svhn", "setting.data_root=/nowhere")
    assert re.match(
        r"raybench: node n[12]: svhn is not in /nowhere there: missing train_32x32.mat, test_32x32.mat; ", told
    )


def test_nodes_of_other_versions_are_named_before_the_first_leg(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "raybench", other / "raybench", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "raybench/errors.py").open("a") as file:
        file.write("# somebody worked here\n")
    for name, version in {"torch": "2.1.0", "deepspeed": "0.9.1"}.items():
        (other / f"{name}-{version}.dist-info").mkdir()
        (other / f"{name}-{version}.dist-info/METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    stranger = add(cluster, "stranger", env_vars={"PYTHONPATH": str(other)})
    try:
        (tmp_path / "sizes.yaml").write_text(SPACE)
        told = refusal(commands_on(cluster, tmp_path))
    finally:
        cluster.remove_node(stranger)
    assert told.startswith("raybench: node stranger: raybench 0.1.0 (")
    assert "; torch 2.1.0 and not 2.13.0; deepspeed 0.9.1 and not 0.19.8; every node needs the same versions" in told


def test_a_cluster_of_another_python_is_told(cluster: Cluster, tmp_path: Path) -> None:
    from ray._raylet import GcsClient

    (tmp_path / "sizes.yaml").write_text(SPACE)
    head = GcsClient(address=cluster.address)
    key, namespace = b"CLUSTER_METADATA", b"cluster"
    kept = head.internal_kv_get(key, namespace)
    other = json.dumps({**json.loads(kept), "python_version": "3.10.1"}).encode()
    try:
        head.internal_kv_put(key, other, True, namespace)
        told = refusal(commands_on(cluster, tmp_path))
    finally:
        head.internal_kv_put(key, kept, True, namespace)
    assert told.startswith("raybench: this process and the Ray cluster are not compatible: Version mismatch: ")
    assert "Python: 3.10.1" in told


def another_python() -> Path | None:
    """A Python of this system that can import what this one can, and has another patch level."""
    mine = sys.version_info
    found = Path(f"/usr/bin/python{mine.major}.{mine.minor}")
    if not found.exists():
        return None
    told = subprocess.run([found, "-c", "import sys; print(sys.version_info[2])"], capture_output=True, check=True)
    return found if int(told.stdout) != mine.micro else None


def test_a_node_of_another_python_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """Ray lets it join only where it is told that the patch level does not matter."""
    python = another_python()
    if python is None:
        pytest.skip("this system has no Python of another patch level")
    (tmp_path / "sizes.yaml").write_text(SPACE)
    commands = commands_on(cluster, tmp_path)
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    environment = {**commands.environment, "PYTHONPATH": os.pathsep.join(paths)}
    start = [
        str(python), "-m", "ray.scripts.scripts", "start", "--block", f"--address={cluster.address}", "--num-cpus=2",
        '--resources={"bench_slot": 1}', "--node-name=older",
    ]  # fmt: skip
    refused = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode != 0
    assert "Version mismatch" in refused.stderr
    with (tmp_path / "node.txt").open("w") as log:
        environment["RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"] = "minor"
        node = subprocess.Popen(start, env=environment, stdout=log, stderr=log)
    try:
        wait_until_up(node, tmp_path / "node.txt", 60)
        told = refusal(commands)
    finally:
        node.terminate()
        node.wait(timeout=60)
    assert re.match(rf"raybench: node older: python 3\.\d+\.\d+ and not {platform.python_version()}; every", told)


# Runs a command for which there is a disk of its own at its first word, and at which it finds the file of its second.
ALONE = 'mount -t tmpfs none "$1" && cp "$2" "$1" && shift 2 && exec "$@"'


def test_what_only_the_drivers_machine_has_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """The driver gets a disk that no node sees: once its own model lies there, once its results would."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own for a process needs root (unshare --mount)")
    (tmp_path / "sizes.yaml").write_text(SPACE)
    commands = commands_on(cluster, tmp_path)
    own, model = tmp_path / "own", tmp_path / "mine.py"
    own.mkdir()
    shutil.copy(ROOT / "tests/sweep/faulty.py", model)
    alone = ["unshare", "--mount", "sh", "-c", ALONE, "sh", str(own), str(model)]
    told = refusal(commands, "setting.model=own.mine:net", within=alone)
    assert re.match(rf"raybench: node (head|n1|n2): {own}/mine.py is missing there; every node needs the same", told)
    told = refusal(commands, "results=own/ledger", within=alone)
    assert told.startswith(f"raybench: the cluster's head, node head, does not see {own} of this machine, where")
    assert list(own.iterdir()) == []


def test_trials_that_share_a_node_run_side_by_side_and_the_answer_says_so(cluster: Cluster, tmp_path: Path) -> None:
    """`slots_per_node: 2` and an accelerator that one node alone has: both trials have to be there at once."""
    fast = add(cluster, "fast", **{"accelerator_type:A100": 1})
    try:
        (tmp_path / "shared.yaml").write_text(SHARED)
        done = commands_on(cluster, tmp_path).run("sweep", "space=shared.yaml", "sweep=f")
    finally:
        cluster.remove_node(fast)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "mlruns/ledger/shared/f").to_pylist()
    assert len(rows) == 8
    assert {(row["status"], row["slots_per_node"]) for row in rows} == {("ok", 2)}, rows[0]["failure_message"]
    assert {json.loads(row["placement"])[0]["node"] for row in rows} == {"fast"}
    (a, b) = (span([row for row in rows if row["repeat"] == repeat]) for repeat in (0, 1))
    assert a[0] < b[1], (a, b)
    assert b[0] < a[1], (a, b)
    told = commands_on(cluster, tmp_path).run("analysis", "mlruns/ledger/shared/f", "--full").stdout
    assert "up to 2 trials shared a node (slots_per_node) and disturbed each other" in " ".join(told.split())


def test_nodes_that_others_keep_are_waited_for_and_then_it_ends(cluster: Cluster, tmp_path: Path) -> None:
    commands = commands_on(cluster, tmp_path)
    (tmp_path / "sizes.yaml").write_text(SPACE)
    words = [sys.executable, "-c", TAKER, cluster.address, "2"]
    with subprocess.Popen(words, env=commands.environment, stdout=subprocess.PIPE, text=True) as taker:
        try:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "taken\n"
            done = commands.run("sweep", "space=sizes.yaml", "sweep=f", "wait=0.3", "repeats=1")
        finally:
            taker.kill()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "waiting for 1 node with 1 CPU and a bench_slot: " in done.stdout, done.stderr
    assert "at most 18 s" in done.stdout
    refused = [line for line in done.stdout.splitlines() if line.startswith("not run: ")]
    assert len(refused) == 2
    assert "1 node with 1 CPU and a bench_slot did not become available within 18 s" in refused[0]
    assert "there are: 2 nodes with 2 CPUs" in refused[0]
    assert refused[0].endswith("2 of them taken by others")
    assert "Traceback" not in done.stdout + done.stderr


def wait_for_a_row(folder: Path, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob("*.parquet")):
        assert driver.poll() is None, (folder.parents[3] / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.timeout(1500)  # a busy machine takes its time
def test_trials_of_one_and_two_nodes_run_side_by_side_and_a_node_that_joins_is_used(
    cluster: Cluster, tmp_path: Path
) -> None:
    commands = commands_on(cluster, tmp_path)
    (tmp_path / "sizes.yaml").write_text(SPACE)
    folder = tmp_path / "mlruns/ledger/sizes/f"
    driver = commands.start("sweep", "space=sizes.yaml", "sweep=f", "--verbose")
    try:
        wait_for_a_row(folder, driver)
        add(cluster, "n3")
        assert driver.wait(timeout=900) == 0, (tmp_path / "output.txt").read_text()
    finally:
        driver.kill()
    told = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in told
    rows = pq.read_table(folder).to_pylist()
    assert len(rows) == 16
    assert {row["status"] for row in rows} == {"ok"}, told

    trials: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        trials.setdefault(row["trial_id"], []).append(row)
    nodes = {name: {place["node"] for place in json.loads(legs[0]["placement"])} for name, legs in trials.items()}
    assert {len(nodes[name]) for name, legs in trials.items() if legs[0]["workers"] == 1} == {1}
    assert {len(nodes[name]) for name, legs in trials.items() if legs[0]["workers"] == 2} == {2}
    assert "n3" in set.union(*nodes.values())
    spans = {name: span(legs) for name, legs in trials.items()}
    beside = [(a, b) for a, b in combinations(spans, 2) if spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]]
    assert beside, spans
    assert not [pair for pair in beside if nodes[pair[0]] & nodes[pair[1]]]
    began = sorted(trials, key=lambda name: spans[name][0])
    first_large = next(place for place, name in enumerate(began) if trials[name][0]["workers"] == 2)
    assert first_large <= 2, "the small ones starved it"

    for row in rows:
        network = json.loads(row["network"] or "null")
        assert (network is None) == (row["workers"] == 1)
        if network:
            assert (network["backend"], network["world"]) == ("gloo", 2)
            assert network["interfaces"][0]["interface"]
            assert [size["bytes"] for size in network["all_reduce"]] == [1 << 20, 1 << 25]
            assert all(
                size["busbw"] == pytest.approx(size["bytes"] / size["seconds"]) for size in network["all_reduce"]
            )
    assert {row["slots_per_node"] for row in rows} == {1}


def span(legs: list[dict[str, Any]]) -> tuple[float, float]:
    """When a trial's first leg began, and when its last one ended."""
    ends = [leg["started_at"].timestamp() + leg["setup_seconds"] + leg["train_seconds"] for leg in legs]
    return min(leg["started_at"].timestamp() for leg in legs), max(ends)
