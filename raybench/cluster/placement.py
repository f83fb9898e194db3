"""Where trials run: a cluster's resources, whether a plan fits, what a trial takes, whether it got that. No ray."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from raybench.child import ask_child
from raybench.cluster.fleet import (
    ACCELERATOR,
    SLOT,
    Amounts,
    Autoscaler,
    Need,
    NodeType,
    accelerators,
    kind_in_words,
    kind_of,
    labels_as_amounts,
    labels_of,
    nodes_in_words,
)
from raybench.declare.datasets import check_present, facts_of
from raybench.declare.plan import Plan, Trial
from raybench.declare.setting import Setting
from raybench.declare.texts import check_text
from raybench.errors import BadData, UserError
from raybench.machine.answers import ClusterAnswer
from raybench.machine.installed import version_differences
from raybench.machine.places import RankReport
from raybench.text import counted

_CONNECT_SECONDS = 3.0
_JOIN_SECONDS = 60.0  # includes the import of ray


@dataclass(frozen=True)
class Cluster:
    """The living nodes, and what the autoscaler, if any, could start in addition."""

    nodes: tuple[Amounts, ...]
    is_local: bool
    autoscaler: Autoscaler | None = None

    @property
    def all_nodes(self) -> list[Amounts]:
        """The living nodes and those that could be started."""
        return [*self.nodes, *(self.autoscaler.to_come(self.nodes) if self.autoscaler else [])]

    @property
    def slots(self) -> int | None:
        """The most trials that may run at once without disturbing each other; None where no node has a slot."""
        count = int(sum(node.get(SLOT, 0) for node in self.all_nodes))
        return count or None

    def largest(self, resource: str) -> int:
        """The most that any one node has of a resource."""
        return int(max((node.get(resource, 0) for node in self.all_nodes), default=0))

    @property
    def has_gpus(self) -> bool:
        return self.largest("GPU") > 0

    def describe(self) -> str:
        """The cluster in a few words."""
        coming = len(self.all_nodes) - len(self.nodes)
        more = f" and {coming} more that its autoscaler can start" if coming else ""
        where = "this machine" if self.is_local else f"a Ray cluster of {counted(len(self.nodes), 'node')}{more}"
        gpus = f", {self.largest('GPU')} GPUs" if self.has_gpus else ", no GPU"
        return f"{where}: {self.largest('CPU')} CPUs{gpus}{'' if self.is_local else ' on its largest node'}"


def use_gpu(device: str, cluster: Cluster) -> bool:
    """Whether a setting's `device` means the GPU on this cluster."""
    return device == "cuda" or (device == "auto" and cluster.has_gpus)


def worker_resources(trial: Trial, cluster: Cluster) -> dict[str, float]:
    """What Ray gives each worker of a trial: a CPU, its GPU, its part of the node's slot, its accelerator type."""
    setting = trial.setting
    resources: dict[str, float] = {"CPU": 1}
    if use_gpu(setting.device, cluster):
        resources["GPU"] = 1
    if cluster.slots:
        sharers = setting.workers_per_node * trial.slots_per_node
        resources[SLOT] = int(10_000 / sharers) / 10_000  # in Ray's smallest unit; a node has one slot, for one trial
    if setting.accelerator:
        resources[ACCELERATOR + setting.accelerator] = 0.0001
    return resources


def need_of(trial: Trial, cluster: Cluster) -> Need:
    """What a trial takes on each of its nodes, and the labels that the nodes must have."""
    each = trial.setting.workers_per_node
    amounts = {name: round(amount * each, 4) for name, amount in worker_resources(trial, cluster).items()}
    amounts |= labels_as_amounts(trial.setting.node_labels, 0.0001)
    return Need(trial.setting.nodes, tuple(sorted(amounts.items())))


def check_fits(plan: Plan, cluster: Cluster) -> None:
    """Raise UserError for a trial that the cluster can never run, naming its needs and the cluster's resources."""
    for trial in {(trial.setting_id, trial.slots_per_node): trial for trial in plan.trials}.values():
        _check_device(trial, cluster)
        setting, need = trial.setting, need_of(trial, cluster)
        _check_one_node(trial, dict(need.resources), cluster)
        fitting = [node for node in cluster.all_nodes if need.fits(node)]
        if len(fitting) < setting.nodes:
            raise UserError(
                f"setting.nodes: {trial.label!r} needs {need.in_words()}, but {len(fitting) or 'none'} "
                f"of the nodes can run it: {nodes_in_words(cluster.all_nodes)}"
            )
        if setting.nodes > 1 and not cluster.slots:
            raise UserError(
                "setting.nodes: a trial over several nodes needs nodes that declare a slot; start each with "
                "--resources='{\"bench_slot\": 1}'"
            )


def _check_device(trial: Trial, cluster: Cluster) -> None:
    setting = trial.setting
    gpu = use_gpu(setting.device, cluster)
    if not gpu and any(leg.setting.batch_size == "max" and not leg.setting.memory_limit for leg in trial.legs):
        raise UserError(
            f"setting.batch_size: max needs setting.memory_limit where there is no GPU, such as 2GiB a worker; "
            f"{trial.label!r} has none"
        )
    if gpu and not cluster.has_gpus:
        raise UserError(
            f"setting.device: {trial.label!r} asks for cuda, and there is no GPU ({cluster.describe()}); try "
            "setting.device=auto"
        )
    known = accelerators(cluster.all_nodes)
    if setting.accelerator and setting.accelerator not in known:
        raise UserError(
            f"setting.accelerator: no node has {setting.accelerator!r}; there is {', '.join(known) or 'none'} "
            f"({cluster.describe()})"
        )
    there = {label for node in cluster.all_nodes for label in labels_of(node)}
    for key, value in setting.node_labels.items():
        if f"{key}={value}" not in there:
            like = ", ".join(sorted(label for label in there if label.startswith(f"{key}=")))
            raise UserError(
                f"setting.node_labels: no node has {key}={value}; there is {like or f'none with {key}'} "
                f"({cluster.describe()})"
            )


def _check_one_node(trial: Trial, amounts: Amounts, cluster: Cluster) -> None:
    """Raise UserError for more workers than any node has CPUs or GPUs for."""
    workers = trial.setting.workers_per_node
    for resource in ("GPU", "CPU"):
        have = cluster.largest(resource)
        if amounts.get(resource, 0) > have == 0:
            raise UserError(f"no node has a {resource} for a worker ({cluster.describe()}); start nodes that train")
        if amounts.get(resource, 0) > have:
            raise UserError(
                f"setting.workers: {workers} workers need {workers} {resource}s on one node, and there are {have} "
                f"({cluster.describe()}); {trial.label!r} cannot run; try setting.workers={have * trial.setting.nodes}"
            )


def check_data(plan: Plan) -> None:
    """Raise UserError where a setting's data are missing on this machine, or too few for its batch.

    Where workers run on other machines, only the workers can check.
    """
    for setting in {trial.setting_id: trial.setting for trial in plan.trials}.values():
        if setting.download:
            continue
        try:
            if setting.task != "classification":
                if setting.task == "language":
                    check_text(setting.dataset, setting.data_root, setting.tokenizer)
                continue
            check_present(setting.dataset, setting.data_root)
            samples = facts_of(setting.dataset, setting.data_root).train_samples
        except BadData as error:
            raise UserError(f"setting.dataset: {error}") from None
        if setting.batch_size != "max" and samples < setting.batch_size:
            raise UserError(
                f"setting.batch_size: {setting.batch_size} is more than the {samples} training images of "
                f"{setting.dataset} in {setting.data_root}"
            )


def threads_per_worker(trial: Trial, cluster: Cluster) -> int:
    """OMP threads of each worker: the CPUs of the smallest node that fits, divided among its workers."""
    need = need_of(trial, cluster)
    cpus = min((int(node.get("CPU", 0)) for node in cluster.all_nodes if need.fits(node)), default=0)
    return max(1, cpus // (trial.setting.workers_per_node * trial.slots_per_node))


def check_placement(reports: Sequence[RankReport], setting: Setting, versions: Mapping[str, str | None]) -> str:
    """Why a group's processes are not where their setting wants them, or have other versions; empty where all is well.

    `reports`: by rank. `versions`: the driver's (`raybench.machine.installed.own_versions`).
    """
    of_node = Counter(report.node_id for report in reports)
    names = ", ".join(dict.fromkeys(report.place.node for report in reports))
    if len(of_node) != setting.nodes:
        return f"its {setting.workers} workers are on {len(of_node)} nodes ({names}), and should be on {setting.nodes}"
    if set(of_node.values()) != {setting.workers_per_node}:
        counts = ", ".join(map(str, of_node.values()))
        return f"its workers are unevenly placed on {names}: {counts}, and should be {setting.workers_per_node} a node"
    uuids = Counter(uuid for report in reports for uuid in report.place.gpus)
    models = dict.fromkeys(report.gpu for report in reports if report.gpu)
    if len(models) > 1:
        return f"its GPUs are not alike: {', '.join(models)} (on {names})"
    for rank, report in enumerate(reports):
        where = f"rank {rank} on {report.place.node}"
        shared = [uuid for uuid in report.place.gpus if uuids[uuid] > 1]
        if shared:
            return f"{where} shares its GPU {shared[0]} with another rank"
        if report.foreign_processes:
            return f"{where}: {report.foreign_processes} other processes use its GPU {report.place.gpus[0]}"
        if report.versions and (differing := version_differences(report.versions, versions)):
            return f"{where}: {differing}"
    return ""


def this_machine() -> Cluster:
    """The resources of a Ray on this machine alone, with one slot."""
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return Cluster(({"CPU": float(os.cpu_count() or 1), "GPU": float(gpus), SLOT: 1.0},), is_local=True)


@dataclass(frozen=True)
class Place:
    """Where a sweep would run: a cluster, or the reason why the requested one cannot be reached."""

    cluster: Cluster | None
    problem: str = ""

    @property
    def slots(self) -> int:
        return (self.cluster and self.cluster.slots) or 1

    @property
    def is_elsewhere(self) -> bool:
        """Whether trials run on a cluster, which may not include this machine."""
        return self.cluster is not None and not self.cluster.is_local

    def in_words(self, plan: Plan) -> str:
        """The cluster, how many trials run at once and their size, and whether the plan fits."""
        if self.cluster is None:
            return self.problem
        try:
            check_fits(plan, self.cluster)
        except UserError as error:
            return f"it does not fit: {error}"
        trials = list({trial.setting_id: trial for trial in plan.trials}.values())
        each = _range([trial.setting.workers for trial in trials], "worker")
        own, up_to = "a node of its own", ""
        if max(trial.setting.nodes for trial in trials) > 1:
            each += f" on {_range([trial.setting.nodes for trial in trials], 'node')}"
            own, up_to = "nodes of its own", "up to "
        shared = plan.trials[0].slots_per_node
        if shared > 1:
            own = f"a node shared by up to {shared} (slots_per_node)"
        most = self.slots * shared
        at_once = "one trial at a time" if most == 1 else f"{up_to}{most} trials at a time, each on {own}"
        return f"{self.cluster.describe()}; {at_once}, of {each}{self._kinds(trials)}"

    def _kinds(self, trials: Sequence[Trial]) -> str:
        """A warning where a setting could run on several kinds of nodes, whose results are not compared."""
        assert self.cluster is not None
        kinds = {
            kind_of(node)
            for trial in trials
            for node in self.cluster.all_nodes
            if need_of(trial, self.cluster).fits(node)
        }
        if len(kinds) < 2:
            return ""
        named = "; ".join(kind_in_words(kind) for kind in sorted(kinds))
        return (
            f". Nodes of {len(kinds)} kinds can run it ({named}): a setting's trials stay on one kind where possible, "
            "and trials on another kind are compared separately; to choose, set setting.accelerator or "
            "setting.node_labels"
        )


def _range(numbers: Sequence[int], what: str) -> str:
    """As `2 workers` or `1 to 4 workers`."""
    least, most = min(numbers), max(numbers)
    return counted(most, what) if least == most else f"{least} to {counted(most, what)}"


def find_cluster() -> Place:
    """The cluster of RAY_ADDRESS, else this machine. A child process joins the cluster; no Ray is started."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto", "local"):
        return Place(this_machine())
    problem = "" if "://" in address else connection_problem(address)
    answer: ClusterAnswer = {"error": problem}
    if not problem:
        answer = cast("ClusterAnswer", ask_child(["raybench.cluster.ray_probe", address], _JOIN_SECONDS))
    if "error" in answer:
        return Place(None, f"RAY_ADDRESS={address} cannot be joined: {answer['error']}")
    scaler = answer["autoscaler"]
    autoscaler = Autoscaler(tuple(NodeType(**type_) for type_ in scaler["types"]), scaler["most"]) if scaler else None
    return Place(Cluster(tuple(answer["nodes"]), is_local=False, autoscaler=autoscaler))


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
