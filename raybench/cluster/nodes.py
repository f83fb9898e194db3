"""Looking at the nodes of the Ray cluster that this process has joined: what is free, and are they fit for a sweep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.cluster.fleet import Node
from raybench.cluster.versions import own_versions, version_differences
from raybench.driver.endings import living_nodes
from raybench.errors import UserError

_ANSWER_SECONDS = 120.0  # a process has to be started on each node, on some from a cold network disk


def look() -> list[Node]:
    """The living nodes with what is free of each."""
    names = living_nodes()
    free = ray._private.state.available_resources_per_node()
    return [
        Node(node["NodeID"], names[node["NodeID"]], dict(node["Resources"]), dict(free.get(node["NodeID"], {})))
        for node in ray.nodes()
        if node["NodeID"] in names
    ]


def check_nodes(files: Iterable[Path]) -> None:
    """Ask every living node for its versions, and for these files; they have to be those of this process.

    Raises UserError naming the node and what differs. A node that comes later is looked at by the trials placed there.
    """
    expected = _digests(files)
    names = living_nodes()
    asked = {node_id: _ask(node_id, list(expected)) for node_id in names}
    for node_id, answer in asked.items():
        problem = _problem(answer, expected)
        if problem:
            raise UserError(
                f"node {names[node_id]}: {problem}; every node needs the same versions and the same working tree at "
                "the same path as where the sweep is started"
            )


def _ask(node_id: str, files: list[str]) -> Any:
    """A task on a node, which takes no CPU of it: its versions, and the digest of each file."""

    def tell() -> dict[str, Any]:  # travels by value, so that it runs where raybench is another or not there
        import hashlib as hashing
        import pathlib

        try:
            from raybench.cluster.versions import own_versions as versions

            found: dict[str, Any] = {"versions": versions()}
        except ImportError as error:
            found = {"error": f"no such raybench there ({error})"}
        paths = [pathlib.Path(file) for file in files]
        found["files"] = {
            str(path): hashing.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths
        }
        return found

    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(tell).options(scheduling_strategy=here).remote()


def _problem(answer: Any, expected: Mapping[str, str]) -> str:
    try:
        found = ray.get(answer, timeout=_ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError:
        return f"no process could be started there within {_ANSWER_SECONDS:.0f} s"
    except ray.exceptions.RayError as error:
        return f"it could not be asked ({(str(error).strip().splitlines() or [type(error).__name__])[-1]})"
    if "error" in found:
        return str(found["error"])
    missing = [file for file, digest in found["files"].items() if not digest]
    other = [file for file, digest in found["files"].items() if digest not in ("", expected[file])]
    if missing or other:
        return f"{(missing or other)[0]} {'is not there' if missing else 'is another file there'}"
    return version_differences(found["versions"], own_versions())


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
