"""A real Ray cluster of several nodes on this machine, in a process of its own, which answers a word a line with JSON.

    python -m tests.chaos.nodes [NUMBER OF NODES]

`address`, `add` (a node), `raylets` (the process of each node but the head's), `state` (actors and placement groups
that are there), `kill_head` (all of its processes), `restart` (another cluster in the place of one without a head). It
ends when its input does, and all of the cluster with it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conftest import command_environment
from tests.sweep.processes import MARK, end_all


class Nodes:
    """The cluster as the chaos run sees it; a context."""

    def __init__(self, number: int, folder: Path, mark: str, variables: Mapping[str, str]) -> None:
        with (folder / "nodes.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nodes", str(number)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder, text=True,
                env=command_environment(**{MARK: mark}, SPT_NOENV="1", **variables),  # so that all keep the mark
            )  # fmt: skip

    def ask(self, word: str) -> Any:
        """The answer to a word."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)["answer"]
        raise AssertionError(f"the cluster's process ended: {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()


def main(number: int) -> None:
    """Serve a cluster until the input ends."""
    from ray.cluster_utils import Cluster

    def start() -> None:
        nonlocal cluster
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _number in range(number):
            add()

    def add() -> int:
        name = f"node{next(numbers)}"
        node = cluster.add_node(num_cpus=2, resources={"bench_slot": 1}, node_name=name)
        return int(node.all_processes["raylet"][0].process.pid)

    def state() -> dict[str, list[str]]:
        actors = cluster.global_state.actor_table(None)
        groups = cluster.global_state.placement_group_table()
        return {
            "actors": [actor["ActorClassName"] for actor in actors.values() if actor["State"] != "DEAD"],
            "placement_groups": [group["name"] for group in groups.values() if group["state"] != "REMOVED"],
        }

    def restart() -> None:
        cluster.shutdown()
        end_all(os.environ[MARK], but=os.getpid())  # what locked itself up in its exit
        start()

    cluster: Any = None
    numbers = itertools.count(1)
    start()
    words = {
        "address": lambda: cluster.address,
        "add": add,
        "raylets": lambda: [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes],
        "state": state,
        "kill_head": lambda: cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False),
        "restart": restart,
    }
    for line in sys.stdin:
        print(json.dumps({"answer": words[line.strip()]()}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
