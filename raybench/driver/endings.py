"""Why a group of processes ended early, from the errors of Ray and Ray Train: a leg's failure, or a lost node."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Collection
from typing import Any

import ray

from raybench.cluster.nodes import lost_nodes
from raybench.cluster.ray_private import WRAPPED_ERRORS
from raybench.declare.plan import Trial
from raybench.driver.deaths import Death, how_died
from raybench.errors import FailureKind, LegDied
from raybench.ledger.outcome import Failure

_NODE_END_SECONDS = 1.0  # between the end of a node's workers and its own


def failure_of(trial: Trial, error: BaseException, seconds: float, *, oom_kills: int) -> Failure:
    """The failure of the leg that ended its group after `seconds`, from what Ray Train reports about the workers.

    `oom_kills`: how many processes the OOM killer ended meanwhile; some may not be ours.
    """
    environment: dict[str, Any] = {"node": socket.gethostname(), "trial_process": os.getpid()}
    kind: FailureKind = "crashed"
    message = first_words(error)
    causes = _causes(error)
    own = next((cause for _, cause in sorted(causes.items()) if isinstance(cause, LegDied)), None)
    dead = {rank: cause for rank, cause in sorted(causes.items()) if isinstance(cause, ray.exceptions.RayError)}
    deaths = {rank: how_died(getattr(cause, "actor_id", None), seconds) for rank, cause in dead.items()}
    told = {rank: _cause_of_death(dead[rank], death, 0) for rank, death in deaths.items()}
    no_memory = [rank for rank, (kind_told, _) in told.items() if kind_told == "out_of_memory"]
    is_late = seconds >= trial.leg_timeout_seconds  # those of a search for the largest batch, or of a pilot, included
    if is_late and own is not None and own.kind == "out_of_memory":
        kind, message = own.kind, own.message
    elif is_late and not no_memory:
        limit = trial.leg_timeout_seconds
        kind, message = "timeout", f"still running after {seconds:.0f} s; the limit is {limit:.0f} s"
    elif dead:
        known = [rank for rank, death in deaths.items() if death.signal or rank in no_memory]
        rank = next(iter(no_memory if is_late else known or dead))
        kind, words = _cause_of_death(dead[rank], deaths[rank], oom_kills)
        message = f"rank {rank}: {words}"
        if deaths[rank].log:
            environment["log"] = deaths[rank].log  # kept out of the message, so that equal failures are reported once
    elif own is not None:
        kind, message = own.kind, own.message
    return Failure(kind, message, environment=environment)


def _cause_of_death(cause: BaseException, death: Death, oom_kills: int) -> tuple[FailureKind, str]:
    """The kind of failure and its message; certain causes are tried before likely ones."""
    detail = re.search(r"exit detail: (.*?)(?: Some common causes|$)", str(cause), re.MULTILINE)
    told = detail[1] if detail else first_words(cause)
    if isinstance(cause, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(cause):
        return "out_of_memory", f"its process died: {told}"  # Ray ended it before the kernel had to
    if death.signal:
        return "crashed", f"its process died of {death.signal}"
    if death.oom_killed:
        return "out_of_memory", "its process was ended by the kernel's OOM killer"
    if death.oom_killed is None and oom_kills:
        return "out_of_memory", f"its process died while the kernel's OOM killer was at work: {told}"
    return "crashed", f"its process died: {told}"


def why_cut(error: BaseException, node_ids: Collection[str]) -> str:
    """The lost nodes that ended a group which ran on `node_ids`, so that no leg is to blame; empty where none was."""
    lost = lost_nodes(node_ids)
    if not lost and any(isinstance(cause, ray.exceptions.RayError) for cause in _causes(error).values()):
        time.sleep(_NODE_END_SECONDS)
        lost = lost_nodes(node_ids)
    return f"lost {'node' if len(lost) == 1 else 'nodes'} {' and '.join(lost)}" if lost else ""


def _causes(error: BaseException) -> dict[int, Any]:
    """The error of each rank that failed."""
    return {rank: _root(cause) for rank, cause in getattr(error, "worker_failures", {}).items()}


def _root(error: BaseException) -> Any:
    """The exception behind Ray's and Train's wrappers."""
    for _ in range(10):
        wrapped = (getattr(error, name, None) for name in WRAPPED_ERRORS)
        inner = next((one for one in wrapped if one is not None), None)
        if not isinstance(inner, BaseException) or isinstance(error, ray.exceptions.RayActorError):
            return error
        error = inner
    return error


def first_words(error: BaseException) -> str:
    """The first lines of an exception's text as one line; where it holds a traceback, the exception at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    begin = next((number for number, line in enumerate(lines) if line.startswith("Traceback (")), len(lines))
    raised = [line for line in lines[begin:] if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    if raised:
        lines = [*lines[:begin], raised[-1]]
    return " ".join(lines[:6])[:1500] or type(error).__name__
