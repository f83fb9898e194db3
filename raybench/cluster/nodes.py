"""The nodes of the joined Ray cluster: their free resources, and whether they are fit for a sweep."""

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
from raybench.machine.answers import NodeAnswer
from raybench.machine.installed import own_versions, version_differences

_ANSWER_SECONDS = 120.0  # a process has to be started on each node, sometimes from a cold network disk
_CONNECT_SECONDS = 5.0


def node_name(node: dict[str, Any]) -> str:
    """A node's name for people, from an entry of `ray.nodes()`: the name that it was started with, else its host name.

    It stays the same when the machine rejoins under another Ray id.
    """
    name = str(node.get("NodeName") or "")
    return name if name not in ("", node["NodeManagerAddress"]) else str(node["NodeManagerHostname"])


def living_nodes() -> dict[str, str]:
    """The nodes whose raylet answers: Ray's id -> name.

    Ray counts a node as alive until it has missed several health checks, by default for 14 s.
    """
    return {node["NodeID"]: node_name(node) for node in ray.nodes() if node["Alive"] and _answers(node)}


def lost_nodes(node_ids: Collection[str]) -> list[str]:
    """The names of those nodes that are gone: reported dead by Ray, or without an answer from their raylet."""
    nodes = [node for node in ray.nodes() if node["NodeID"] in node_ids]
    return sorted({node_name(node) for node in nodes if not (node["Alive"] and _answers(node))})


def _answers(node: dict[str, Any]) -> bool:
    """Whether something listens at the address of the node's raylet."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CONNECT_SECONDS):
            return True
    except OSError:
        return False


def look() -> list[Node]:
    """The living nodes and their free resources."""
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
    """Free the reservations of this job's dead actors, and those of this process, which has no group now. Returns how
    many there were.

    Ray keeps an actor's placement group until the whole job ends, so a killed trial process's worker group would hold
    its slot until then. Ray Train's own cleaner needs the dashboard, which a Ray of one machine does not run. Train
    leaves a group of a living process where a worker dies while torch's process group is made.
    """
    context = ray.get_runtime_context()
    job, own = context.get_job_id(), context.get_actor_id()
    removed = 0
    for creator, group in ray_private.placement_groups_of_actors(job):
        if creator == own or ray_private.actor_table(creator).get("State") == "DEAD":
            remove_placement_group(group)
            removed += 1
    return removed


@dataclass(frozen=True)
class _Question:
    """What a node is asked for, besides its versions."""

    files: tuple[str, ...]  # whose digests are wanted
    data: tuple[tuple[str, str], ...]  # (dataset, data_root) pairs to check for missing data


def check_nodes(plan: Plan, cluster: Cluster, folder: Path) -> None:
    """Ask every living node for its versions, the users' models, and the data that it may train on; and ask the head
    for `folder`, which a sweep's driver and its recorder share. All must match this machine.

    Raises UserError naming the node and the difference. Nodes that join later are checked by the trials placed there.
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
                    f"the cluster's head, node {name}, does not see {existing} of this machine, where the sweep keeps "
                    "its files: start the sweep on the head, or in a folder that both share"
                )
            if problem := _problem(found, {str(file): _digest(file) for file in files}):
                raise UserError(f"node {name}: {problem}")


def _data_for(plan: Plan, cluster: Cluster, node: Node) -> tuple[tuple[str, str], ...]:
    """The datasets, with their folders, that a node must have because it may train on them."""
    wanted = {
        (trial.setting.dataset, trial.setting.data_root)
        for trial in plan.trials
        if trial.setting.task == "classification"  # a script handles its own data
        and not trial.setting.download
        and need_of(trial, cluster).fits(node.total)
    }
    # A relative folder starts at the working tree; ~ is the home folder on that node.
    return tuple(sorted((name, root if root[:1] == "~" else str(Path.cwd() / root)) for name, root in wanted))


def _ask(node_id: str, question: _Question) -> Any:
    """Start a task on a node, without a CPU, that returns its versions, each file's digest, and missing data."""
    files, data = question.files, question.data

    def tell() -> NodeAnswer:  # pickled by value, so that it also runs where raybench is missing or different
        import hashlib as hashing
        import pathlib

        paths = [pathlib.Path(file) for file in files]
        found: NodeAnswer = {
            "files": {
                str(path): hashing.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths
            }
        }
        try:
            from raybench.machine.installed import own_versions as versions

            found["versions"] = versions()
            from raybench.declare.datasets import missing_files

            found["missing"] = [(name, root, missing_files(name, root)) for name, root in data]
        except ImportError as error:
            found.setdefault("error", f"raybench cannot be imported there ({error})")
        return found

    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(tell).options(scheduling_strategy=here).remote()


def _found(answer: Any) -> NodeAnswer:
    """A node's answer; `error` where it gave none."""
    try:
        found: NodeAnswer = ray.get(answer, timeout=_ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError:
        return {"error": f"no process could be started there within {_ANSWER_SECONDS:.0f} s"}
    except ray.exceptions.RayError as error:
        return {"error": f"the check there failed ({(str(error).strip().splitlines() or [type(error).__name__])[-1]})"}
    return found


_SAME = (
    "every node needs the same versions and the same working tree at the same path as the node that starts the sweep"
)


def _problem(found: NodeAnswer, expected: Mapping[str, str]) -> str:
    """What is wrong with a node, given its answer, and the remedy; empty where nothing is. `expected`: the digests of
    the files."""
    if "versions" in found and (differing := version_differences(found["versions"], own_versions())):
        return f"{differing}; {_SAME}"
    if "error" in found:
        return f"{found['error']}; {_SAME}"
    for file, digest in expected.items():
        if found["files"][file] != digest:
            return f"{file} {'differs' if found['files'][file] else 'is missing'} there; {_SAME}"
    for dataset, root, names in found["missing"]:
        if names:
            fetched = "" if dataset == "imagefolder" else ", or have them fetched with setting.download=true"
            return (
                f"{dataset} is not in {root} there: missing {', '.join(names[:3])}{' ...' if names[3:] else ''}; copy "
                f"or mount the files on every node that trains{fetched}"
            )
    return ""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
