"""Why a group of processes ended before its time, from what Ray and Ray Train say: a leg's failure, or a lost node."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ray
import ray.train

from raybench.outcome import Failure, FailureKind
from raybench.plan import Trial

_CONNECT_SECONDS = 5.0
_SETTLING_SECONDS = 1.0


def failure_of(trial: Trial, error: BaseException, seconds: float, *, oom_killed: bool) -> Failure:
    """The failure of the leg that ended its group after `seconds`, from what Ray Train says of the workers.

    `oom_killed`: the kernel ended processes of that machine meanwhile, for want of memory.
    """
    environment = {"node": socket.gethostname(), "trial_process": os.getpid()}
    kind: FailureKind = "crashed"
    message = first_words(error)
    causes = _causes(error)
    own = next(((rank, c) for rank, c in sorted(causes.items()) if type(c).__name__ == "LegDied"), None)
    dead = next(((rank, c) for rank, c in sorted(causes.items()) if isinstance(c, ray.exceptions.RayError)), None)
    if seconds >= trial.leg_timeout_seconds:
        kind, message = "timeout", f"no end after {seconds:.0f} s; the limit is {trial.leg_timeout_seconds:.0f} s"
    elif dead is not None:
        low_memory = isinstance(dead[1], ray.exceptions.OutOfMemoryError) or "running low on memory" in str(dead[1])
        kind = "out_of_memory" if low_memory or oom_killed else "crashed"
        detail = re.search(r"exit detail: (.*?)(?: Some common causes|$)", str(dead[1]), re.MULTILINE)
        how = " while the kernel's OOM killer was at work" if oom_killed else ""
        message = f"rank {dead[0]}: its process died{how}: {detail[1] if detail else first_words(dead[1])}"
    elif own is not None:
        kind, message = own[1].kind, own[1].message
    return Failure(kind, message, environment=environment)


def why_cut(error: BaseException, node_ids: Collection[str]) -> str:
    """Why no leg is to blame for the end of a group that ran on these nodes; empty where one is."""
    lost = lost_nodes(node_ids)
    if not lost and any(isinstance(cause, ray.exceptions.RayError) for cause in _causes(error).values()):
        time.sleep(_SETTLING_SECONDS)  # a node that shuts down ends its workers first
        lost = lost_nodes(node_ids)
    if lost:
        return f"lost {'node' if len(lost) == 1 else 'nodes'} {' and '.join(lost)}"
    watched = isinstance(error, ray.train.TrainingFailedError)
    return "" if watched else "the process that watches its workers was killed"


def _causes(error: BaseException) -> dict[int, Any]:
    """What happened to each rank that did not end well."""
    return {rank: _root(cause) for rank, cause in getattr(error, "worker_failures", {}).items()}


def oom_kills() -> int:
    """How many processes the kernel has ended on this machine for want of memory; 0 where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _root(error: BaseException) -> Any:
    """The exception behind Ray's and Train's wrappers."""
    for _ in range(10):
        wrapped = (getattr(error, name, None) for name in ("health_check_failure", "_base_exc", "cause", "__cause__"))
        inner = next((one for one in wrapped if one is not None), None)
        if not isinstance(inner, BaseException) or isinstance(error, ray.exceptions.RayActorError):
            return error
        error = inner
    return error


def first_words(error: BaseException) -> str:
    """The first lines of an exception's text, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:6])[:1500] or type(error).__name__


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
