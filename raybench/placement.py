"""Where trials run: what the nodes offer, whether a plan fits, in how many slots. No ray here."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.child import ask_child
from raybench.datasets import BadData, check_present, facts_of
from raybench.errors import UserError
from raybench.plan import Plan

SLOT = "bench_slot"
_CONNECT_SECONDS = 3.0
_JOIN_SECONDS = 60.0  # the import of ray included


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


def use_gpu(device: str, cluster: Cluster) -> bool:
    """Whether a setting's `device` means the GPU on this cluster."""
    return device == "cuda" or (device == "auto" and cluster.has_gpus)


def check_fits(plan: Plan, cluster: Cluster) -> None:
    """Raise UserError when a trial asks for more than any node has, or for the largest batch without a limit."""
    for trial in plan.trials:
        workers, gpu = trial.setting.workers, use_gpu(trial.setting.device, cluster)
        if not gpu and any(leg.setting.batch_size == "max" and not leg.setting.memory_limit for leg in trial.legs):
            raise UserError(
                f"setting.batch_size: max needs setting.memory_limit where there is no GPU, such as 2GiB a worker; "
                f"{trial.label!r} has none"
            )
        for resource in ("GPU", "CPU") if gpu else ("CPU",):
            have = cluster.largest(resource)
            if workers > have:
                raise UserError(
                    f"setting.workers: {workers} workers need {workers} {resource}s on one node, and there are {have} "
                    f"({cluster.describe()}); {trial.label!r} cannot run; try setting.workers={max(have, 1)}"
                )


def check_data(plan: Plan) -> None:
    """Raise UserError where a setting's data are not on this machine, or too few for its batch.

    Where workers run on other machines, only they can tell.
    """
    for setting in {trial.setting_id: trial.setting for trial in plan.trials}.values():
        if setting.download:
            continue
        try:
            check_present(setting.dataset, setting.data_root)
            samples = facts_of(setting.dataset, setting.data_root).train_samples
        except BadData as error:
            raise UserError(f"setting.dataset: {error}") from None
        if setting.batch_size != "max" and samples < setting.batch_size:
            raise UserError(
                f"setting.batch_size: {setting.batch_size} is more than the {samples} training images of "
                f"{setting.dataset} in {setting.data_root}"
            )


def threads_per_worker(workers: int, cluster: Cluster) -> int:
    """OMP threads of each worker: the smallest node's CPUs shared out among the workers."""
    capable = [int(node["CPU"]) for node in cluster.nodes if node.get("CPU", 0) >= workers]
    return max(1, min(capable, default=workers) // workers)


def this_machine() -> Cluster:
    """What a Ray of this machine alone would offer: one slot."""
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return Cluster(({"CPU": float(os.cpu_count() or 1), "GPU": float(gpus), SLOT: 1.0},), is_local=True)


@dataclass(frozen=True)
class Place:
    """Where a sweep would run: a cluster, or why the one that is asked for cannot be looked at."""

    cluster: Cluster | None
    problem: str = ""

    @property
    def slots(self) -> int:
        return (self.cluster and self.cluster.slots) or 1

    @property
    def is_elsewhere(self) -> bool:
        """Whether trials run on the machines of a cluster, which this need not be one of."""
        return self.cluster is not None and not self.cluster.is_local

    def in_words(self, plan: Plan) -> str:
        """The cluster, how many trials run at once, and whether the plan fits."""
        if self.cluster is None:
            return self.problem
        try:
            check_fits(plan, self.cluster)
        except UserError as error:
            return f"it does not fit: {error}"
        workers = sorted({trial.setting.workers for trial in plan.trials})
        each = f"{workers[0]} workers" if len(workers) == 1 else f"{workers[0]} to {workers[-1]} workers"
        at_once = (
            "one trial at a time" if self.slots == 1 else f"{self.slots} trials at a time, each on a node of its own"
        )
        return f"{self.cluster.describe()}; {at_once}, of {each.replace('1 workers', '1 worker')}"


def find_cluster() -> Place:
    """The cluster of RAY_ADDRESS, else this machine; a Ray is joined in a child process, and none is started."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto", "local"):
        return Place(this_machine())
    problem = "" if "://" in address else connection_problem(address)
    answer: dict[str, Any] = {"error": problem}
    if not problem:
        answer = ask_child(["raybench.ray_probe", address], _JOIN_SECONDS)
    if "error" in answer:
        return Place(None, f"RAY_ADDRESS={address} cannot be joined: {answer['error']}")
    return Place(Cluster(tuple(answer["nodes"]), is_local=False))


def connection_problem(address: str) -> str:
    """Why nothing answers at HOST:PORT; empty where something does."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return "it is no HOST:PORT"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            return ""
    except (OSError, UnicodeError, OverflowError) as error:
        return str(error) or type(error).__name__
