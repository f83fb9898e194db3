"""The nodes of the Ray cluster that this process has joined: what is free of them, and are they fit for a sweep."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.cluster import ray_private
from raybench.cluster.fleet import HEAD, Node, node_amounts
from raybench.cluster.placement import Cluster, need_of
from raybench.declare.catalog import own_model_file
from raybench.declare.plan import Plan
from raybench.errors import UserError
from raybench.machine.versions import own_versions, version_differences

_ANSWER_SECONDS = 120.0  # a process has to be started on each node, on some from a cold network disk
_CONNECT_SECONDS = 5.0


def node_name(node: dict[str, Any]) -> str:
    """What people call a node of `ray.nodes()`: the name that it was started with, else its host's.

    It is the same when the machine comes back under another of Ray's ids.
    """
    name = str(node.get("NodeName") or "")
    return name if name not in ("", node["NodeManagerAddress"]) else str(node["NodeManagerHostname"])


def living_nodes() -> dict[str, str]:
    """The nodes whose raylet answers, by Ray's id, with their names.

    Ray itself takes a node for living until it has missed several health checks, 14 s by default.
    """
    return {node["NodeID"]: node_name(node) for node in ray.nodes() if node["Alive"] and _answers(node)}


def lost_nodes(node_ids: Collection[str]) -> list[str]:
    """The names of those nodes that are gone: Ray says so, or their raylet does not answer."""
    nodes = [node for node in ray.nodes() if node["NodeID"] in node_ids]
    return sorted({node_name(node) for node in nodes if not (node["Alive"] and _answers(node))})


def _answers(node: dict[str, Any]) -> bool:
    """Whether something listens where the node's raylet does."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CONNECT_SECONDS):
            return True
    except OSError:
        return False


def look() -> list[Node]:
    """The living nodes with what is free of each."""
    names = living_nodes()
    free = ray_private.available_resources_by_node()
    return [
        Node(
            node["NodeID"],
            names[node["NodeID"]],
            node_amounts(node["Resources"], node["Labels"]),
            node_amounts(free.get(node["NodeID"]), node["Labels"]),
        )
        for node in ray.nodes()
        if node["NodeID"] in names
    ]


def remove_orphaned_placement_groups() -> int:
    """Give back what was reserved by actors of this job that are dead. Returns how many reservations that were.

    Ray keeps an actor's placement group until the whole job ends, and the worker group of a trial process that
    was killed would hold its slot for so long. Ray Train has a cleaner for this, which asks the dashboard: a Ray of one
    machine runs without.
    """
    job = ray.get_runtime_context().get_job_id()
    removed = 0
    for creator, group in ray_private.placement_groups_of_actors(job):
        if ray_private.actor_table(creator).get("State") == "DEAD":
            remove_placement_group(group)
            removed += 1
    return removed


@dataclass(frozen=True)
class _Question:
    """What a node is asked for, beside its versions."""

    files: tuple[str, ...]  # their digests
    data: tuple[tuple[str, str], ...]  # a dataset and its data_root each: what of them is missing


def check_nodes(plan: Plan, cluster: Cluster, folder: Path) -> None:
    """Ask every living node for its versions, for users' models, and for the data of what it may train; and the head
    for `folder`, which a sweep's driver and its recorder share. All has to be as it is here.

    Raises UserError naming the node and what differs. A node that comes later is looked at by the trials placed there.
    """
    models = {trial.setting.model for trial in plan.trials if ":" in trial.setting.model}
    files = [own_model_file(model) for model in sorted(models)]
    existing = next(path for path in folder.absolute().parents if path.is_dir())
    with tempfile.NamedTemporaryFile(dir=existing, prefix=".raybench-") as mark:
        asked = []
        for node in look():
            shared = (mark.name,) if HEAD in node.total else ()
            question = _Question((*shared, *map(str, files)), _data_for(plan, cluster, node))
            asked.append((node.name, bool(shared), _ask(node.node_id, question)))
        for name, is_head, answer in asked:
            found = _found(answer)
            if is_head and "files" in found and not found["files"][mark.name]:
                raise UserError(
                    f"the cluster's head, node {name}, does not see {existing} of this machine, below which the sweep "
                    "keeps its files: start the sweep on the head, or in a folder that both share"
                )
            if problem := _problem(found, {str(file): _digest(file) for file in files}):
                raise UserError(f"node {name}: {problem}")


def _data_for(plan: Plan, cluster: Cluster, node: Node) -> tuple[tuple[str, str], ...]:
    """The datasets that have to lie on a node because it may train with them, with their folders."""
    wanted = {
        (trial.setting.dataset, trial.setting.data_root)
        for trial in plan.trials
        if trial.setting.task == "classification"  # a script's data are its own matter
        and not trial.setting.download
        and need_of(trial, cluster).fits(node.total)
    }
    # A relative folder is the working tree's; ~ is whoever's home it is there.
    return tuple(sorted((name, root if root[:1] == "~" else str(Path.cwd() / root)) for name, root in wanted))


def _ask(node_id: str, question: _Question) -> Any:
    """A task on a node, which takes no CPU of it: its versions, the digest of each file, data that are not there."""
    files, data = question.files, question.data

    def tell() -> dict[str, Any]:  # travels by value, so that it runs where raybench is another or not there
        import hashlib as hashing
        import pathlib

        paths = [pathlib.Path(file) for file in files]
        found: dict[str, Any] = {
            "files": {
                str(path): hashing.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths
            }
        }
        try:
            from raybench.machine.versions import own_versions as versions

            found["versions"] = versions()
            from raybench.declare.datasets import missing_files

            found["missing"] = [(name, root, missing_files(name, root)) for name, root in data]
        except ImportError as error:
            found.setdefault("error", f"no such raybench there ({error})")
        return found

    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(tell).options(scheduling_strategy=here).remote()


def _found(answer: Any) -> dict[str, Any]:
    """What a node answered; `error` where it did not."""
    try:
        found: dict[str, Any] = ray.get(answer, timeout=_ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError:
        return {"error": f"no process could be started there within {_ANSWER_SECONDS:.0f} s"}
    except ray.exceptions.RayError as error:
        return {"error": f"it could not be asked ({(str(error).strip().splitlines() or [type(error).__name__])[-1]})"}
    return found


_SAME = "every node needs the same versions and the same working tree at the same path as where the sweep is started"


def _problem(found: Mapping[str, Any], expected: Mapping[str, str]) -> str:
    """What is wrong with a node that answered so, and what to do; `expected`: the digests of the files. Empty where
    nothing is."""
    if "versions" in found and (differing := version_differences(found["versions"], own_versions())):
        return f"{differing}; {_SAME}"
    if "error" in found:
        return f"{found['error']}; {_SAME}"
    for file, digest in expected.items():
        if found["files"][file] != digest:
            return f"{file} is {'another file' if found['files'][file] else 'not'} there; {_SAME}"
    for dataset, root, names in found["missing"]:
        if names:
            fetched = "" if dataset == "imagefolder" else ", or have them fetched with setting.download=true"
            return (
                f"{dataset} is not in {root} there: {', '.join(names[:3])}{' ...' if names[3:] else ''} must lie there "
                f"on every node that trains; copy or mount them{fetched}"
            )
    return ""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
