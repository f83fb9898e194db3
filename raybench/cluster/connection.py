"""Joining the Ray cluster that a sweep runs on, or starting a Ray on this machine."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from raybench.cluster import authentication, ray_private
from raybench.cluster.fleet import SLOT, Autoscaler, NodeType, node_amounts
from raybench.cluster.placement import Cluster, connection_problem
from raybench.cluster.surroundings import check_surroundings, set_variables
from raybench.errors import UserError
from raybench.redaction import first_line

ACTOR_NAMESPACE = "raybench"
_OWNER = "raybench_process_"  # + a process number: the resource that marks a Ray started by that sweep


def connect() -> Cluster:
    """Join the Ray cluster of RAY_ADDRESS or of this node, or start a Ray on this machine with one slot.

    RAY_ADDRESS=local starts one whatever runs on this node. Output of Ray and of the workers goes to Ray's log files.

    Raises UserError when RAY_ADDRESS names a cluster that cannot be reached or that rejects this process, because a
    sweep meant for that cluster must not run here; and when the Ray of this node belongs to another sweep.
    """
    check_surroundings()
    set_variables()
    # Without the watcher of preempted nodes a trial starts fewer helper processes; raybench does not use its retries.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray runs its workers at niceness 15, below whatever else this machine does; a training run has normal priority.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # The caller already reports a dead actor in one line; silence Ray's own message.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Otherwise Ray's processes overwrite their environment with their names; `end_own_ray` finds them by a variable.
    os.environ.setdefault("SPT_NOENV", "1")
    # Tune reports a failed trial in pages; the sweep prints one line, and Ray's log files have the pages.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    # The raylet also reports dead processes on the driver's terminal; they become failure rows and a line of ours.
    ray_private.silence_dead_workers()
    common: dict[str, Any] = {
        "namespace": ACTOR_NAMESPACE, "log_to_driver": False, "logging_level": "error", "configure_logging": True,
    }  # fmt: skip
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if address != "local":
            with ray_private.on_loopback() if _listens_on_loopback_alone() else contextlib.nullcontext():
                _join(address, common)
            nodes = _nodes()
            owner = _owner(nodes)
            if owner is None:
                return Cluster(nodes, is_local=False, autoscaler=_autoscaler())
            ray.shutdown()  # it ends with the sweep that started it
            if psutil.pid_exists(owner):
                raise UserError(
                    f"another sweep runs on this machine (process {owner}) with a Ray of its own; wait until it ends, "
                    "or set RAY_ADDRESS=local to run beside it (both then disturb each other's measurements)"
                )
    except (ConnectionError, RuntimeError) as error:
        why = error.__cause__ or error
        if "Version mismatch" in str(why):
            raise UserError(
                f"this process and the Ray cluster are not compatible: {' '.join(str(why).split())}"
            ) from None
        if not isinstance(error, ConnectionError):
            raise
        if address not in ("", "auto"):
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({first_line(error)})") from None
    except ValueError as error:
        if isinstance(error, UserError) or address in ("", "auto"):
            raise
        raise UserError(f"RAY_ADDRESS={address}: it is no HOST:PORT of a Ray cluster ({first_line(error)})") from None
    except ray.exceptions.AuthenticationError as error:
        raise UserError(f"the Ray cluster and this process do not have the same token ({error.message})") from None
    _start(common)
    return Cluster(_nodes(), is_local=True)


def _join(address: str, common: dict[str, Any]) -> None:
    """Join the cluster of RAY_ADDRESS or of this node. Raises ConnectionError where nothing answers."""
    if "://" not in address:
        head = ray_private.address_of_this_nodes_ray()
        if problem := connection_problem(head):  # Ray itself would retry for many minutes
            raise ConnectionError(problem)
        authentication.agree_with(head)
    ray.init(address="auto", **common)


def _start(common: dict[str, Any]) -> None:
    """Start a Ray on this machine alone, listening on loopback, with one slot. Raises UserError."""
    authentication.make_token()
    try:
        with ray_private.on_loopback():
            own = {SLOT: 1, f"{_OWNER}{os.getpid()}": 1}
            ray.init(address="local", resources=own, include_dashboard=False, **common)
    except Exception as error:  # Ray waits half a minute for a node, and has no exception type for this
        if "timed out during startup" not in str(error):
            raise
        raise UserError(
            "Ray did not start on this machine within 30 s; the machine may be busy: check its load, then try again"
        ) from None


def _listens_on_loopback_alone() -> bool:
    """Whether the Ray of RAY_ADDRESS or of this node listens on loopback only, as one started by a sweep does.

    Ray would look for it at this node's own address, forever. Raises ConnectionError where there is no Ray.
    """
    host, _, port = ray_private.address_from_environment().rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        return False
    elsewhere = f"{ray_private.this_nodes_address()}:{port}"
    return bool(connection_problem(elsewhere)) and not connection_problem(f"{host}:{port}")


def _owner(nodes: tuple[dict[str, float], ...]) -> int | None:
    """The process number of the sweep that started this Ray; None for a cluster."""
    names = [name for node in nodes for name in node if name.startswith(_OWNER)]
    return int(names[0].removeprefix(_OWNER)) if names else None


def disconnect() -> None:
    """Leave the cluster; a Ray started by `connect` ends.

    No garbage is collected meanwhile: where another thread frees a reference of Ray's at the wrong moment of the
    shutdown, Ray ends this process with exit code 1.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collects:
            gc.enable()


def end_own_ray() -> None:
    """Kill what is left of the Ray that `connect` started, after its head died.

    Otherwise Ray's agents would stay for another minute, and a worker that deadlocks in its exit would stay forever.
    """
    started = ray_private.own_processes()
    for info in itertools.chain.from_iterable(started.values()):  # includes the raylet, which starts the others
        info.process.kill()
    raylets = {str(info.process.pid) for info in started[ray_private.RAYLET]}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # already gone, or another user's
            if process.environ().get("RAY_RAYLET_PID") in raylets:
                process.kill()


def _nodes() -> tuple[dict[str, float], ...]:
    return tuple(node_amounts(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"])


def log_folder() -> str:
    """The folder with the output of all processes of this Ray session."""
    return str(ray_private.log_folder() or Path(tempfile.gettempdir(), "ray", "session_latest", "logs"))


def _autoscaler() -> Autoscaler | None:
    """What the cluster's autoscaler may start; None where there is no autoscaler or its config cannot be read here.

    Ray reports it to the GCS on managed platforms only. Elsewhere the monitor, a process on the head, has the config
    that `ray up` wrote as a file.
    """
    config = ray_private.cluster_config()
    if config is not None and config.node_group_configs:
        groups = config.node_group_configs
        counts = [group.max_count if group.max_count >= 0 else _NO_LIMIT for group in groups]
        types = [
            NodeType(group.name, dict(group.resources), count) for group, count in zip(groups, counts, strict=True)
        ]
        return Autoscaler(tuple(types), sum(counts))
    path = _autoscaling_config(str(ray.get_runtime_context().gcs_address))
    return read_autoscaler(path) if path is not None else None


_NO_LIMIT = 10_000  # nodes of a type that has no limit


def _autoscaling_config(gcs_address: str) -> Path | None:
    """The config file that this cluster's monitor on this machine was started with."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if any(word.endswith("monitor.py") for word in words) and options.get("--gcs-address") == gcs_address:
            config = options.get("--autoscaling-config")
            return Path(config).expanduser() if config else None
    return None


def read_autoscaler(path: Path) -> Autoscaler | None:
    """The worker types in an autoscaler config for `ray up`; None where it cannot be read."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        most = int(config.get("max_workers", 2))  # Ray's default
        head = config.get("head_node_type")
        types = [
            NodeType(
                name,
                node_amounts(type_.get("resources"), type_.get("labels")),
                min(most, int(type_.get("max_workers", most))),
            )
            for name, type_ in (config.get("available_node_types") or {}).items()
            if name != head
        ]
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError):
        return None
    return Autoscaler(tuple(types), most)
