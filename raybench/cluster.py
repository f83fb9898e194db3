"""The cluster that a sweep runs on: an existing one, or this machine; whether the plan fits, in which slots."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray turns token authentication on by itself where it starts a cluster and a token lies ready; who joins such a
# cluster needs it too, and Ray reads this variable when it is imported.
if (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray

from raybench.errors import UserError
from raybench.plan import Plan
from raybench.recorder import ACTOR_NAMESPACE

SLOT = "bench_slot"


@dataclass(frozen=True)
class Cluster:
    """What the nodes offer: CPUs and GPUs a node, and the number of slots (None where no node declares any)."""

    nodes: tuple[dict[str, float], ...]
    is_local: bool

    @property
    def slots(self) -> int | None:
        """Trials that may run side by side without disturbing each other."""
        count = int(sum(node.get(SLOT, 0) for node in self.nodes))
        return count or None

    def largest(self, resource: str) -> int:
        """The most of a resource that one node has."""
        return int(max((node.get(resource, 0) for node in self.nodes), default=0))

    @property
    def has_gpus(self) -> bool:
        return self.largest("GPU") > 0

    def describe(self) -> str:
        """The cluster in a few words."""
        where = "this machine" if self.is_local else f"a Ray cluster of {len(self.nodes)} nodes"
        gpus = f", {self.largest('GPU')} GPUs" if self.has_gpus else ", no GPU"
        return f"{where}: {self.largest('CPU')} CPUs{gpus}{'' if self.is_local else ' on its largest node'}"


def connect() -> Cluster:
    """Join the Ray cluster of RAY_ADDRESS or of this node, or start one of this machine with one slot.

    Ray's and the workers' own output goes to Ray's log files. Raises UserError when RAY_ADDRESS names a cluster
    that cannot be reached: a sweep meant for it must not run here instead.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A trial starts fewer helpers without the watcher of preempted nodes, whose retries raybench does not use.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray runs its workers at niceness 15, below whatever else this machine does; a training run has normal priority.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Tune tells of a failed trial in pages; the sweep says it in a line, and Ray's log files have the pages.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    # So does the raylet of a process that died, on the driver's terminal; it becomes a failure row and a line of ours.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    common: dict[str, Any] = {
        "namespace": ACTOR_NAMESPACE, "log_to_driver": False, "logging_level": "error", "configure_logging": True,
    }  # fmt: skip
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        ray.init(address="auto", **common)
        return Cluster(_nodes(), is_local=False)
    except ConnectionError as error:
        if address not in ("", "local", "auto"):
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({reason})") from None
        ray.init(address="local", resources={SLOT: 1}, include_dashboard=False, **common)
        return Cluster(_nodes(), is_local=True)


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends."""
    ray.shutdown()


def _nodes() -> tuple[dict[str, float], ...]:
    return tuple(dict(node["Resources"]) for node in ray.nodes() if node["Alive"])


def use_gpu(device: str, cluster: Cluster) -> bool:
    """Whether a setting's `device` means the GPU on this cluster."""
    return device == "cuda" or (device == "auto" and cluster.has_gpus)


def check_fits(plan: Plan, cluster: Cluster) -> None:
    """Raise UserError when a trial asks for more than any node has."""
    for trial in plan.trials:
        workers, gpu = trial.setting.workers, use_gpu(trial.setting.device, cluster)
        for resource in ("GPU", "CPU") if gpu else ("CPU",):
            have = cluster.largest(resource)
            if workers > have:
                raise UserError(
                    f"setting.workers: {workers} workers need {workers} {resource}s on one node, and there are {have} "
                    f"({cluster.describe()}); {trial.label!r} cannot run; try setting.workers={max(have, 1)}"
                )


def threads_per_worker(workers: int, cluster: Cluster) -> int:
    """OMP threads of each worker: the smallest node's CPUs shared out among the workers."""
    capable = [int(node["CPU"]) for node in cluster.nodes if node.get("CPU", 0) >= workers]
    return max(1, min(capable, default=workers) // workers)


def log_folder() -> str:
    """Where Ray keeps the output of all processes of this session."""
    context = ray._private.worker.global_worker
    node = getattr(context, "node", None)
    return (
        str(node.get_logs_dir_path()) if node else os.path.join(tempfile.gettempdir(), "ray", "session_latest", "logs")
    )
