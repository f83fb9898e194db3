"""Everything that raybench uses of Ray's and has no promise of Ray's to stay: one function a touchpoint, and why.

`tests/cluster/test_ray_private.py` fails when a new Ray has changed one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import ray_constants, services
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup

HEAD_RESOURCE: Final = "node:__internal_head__"  # which the head alone has; Ray's public strategies name no head
NODE_ID_LABEL: Final = "ray.io/node-id"  # a label that Ray gives every node: a group's workers go where it was granted
CLUSTER_ID_METHOD: Final = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # of Ray's head; it takes an empty message
# Where Ray's and Train's wrappers keep the exception that they wrap.
WRAPPED_ERRORS: Final = ("health_check_failure", "_base_exc", "cause", "__cause__")


def available_resources_by_node() -> Mapping[str, Mapping[str, float]]:
    """By node id, what is free. `ray.available_resources` tells the cluster's sum only."""
    free: Mapping[str, Mapping[str, float]] = ray_state.available_resources_per_node()
    return free


def actor_table(actor_id: str) -> Mapping[str, Any]:
    """What the GCS knows of an actor: `Pid`, `State`, `Address`. Ray's state API asks the dashboard, and a Ray of one
    machine runs without."""
    table: Mapping[str, Any] = ray_state.state.actor_table(actor_id)
    return table


def placement_groups_of_actors(job_id: str) -> Iterator[tuple[str, PlacementGroup]]:
    """The living placement groups of a job, each with the id of the actor that made it, which no public call tells."""
    for data in ray_state.state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(data)
        if group.state != gcs_pb2.PlacementGroupTableData.REMOVED and group.creator_job_id.hex() == job_id:
            yield group.creator_actor_id.hex(), PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


def cluster_config() -> Any:
    """The autoscaler's groups as the GCS knows them; None where it does not. Ray has no public word for it."""
    return ray_state.state.get_cluster_config()


def log_folder() -> Path | None:
    """Where the processes of this session write their logs; None before a session. No public call tells."""
    node = getattr(ray_worker.global_worker, "node", None) or ray_worker._global_node
    return Path(node.get_logs_dir_path()) if node else None


def own_processes() -> Mapping[str, list[Any]]:
    """The processes of the Ray that this process started, by kind: to end them when its head is gone, and
    `ray.shutdown` would wait for it."""
    started: Mapping[str, list[Any]] = ray_worker._global_node.all_processes
    return started


RAYLET: Final = ray_constants.PROCESS_TYPE_RAYLET  # its kind among `own_processes`


def silence_dead_workers() -> None:
    """A process that died becomes a failure row; the raylet would tell of it on the driver's terminal as well,
    whatever `log_to_driver` says."""
    ray_worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Told that there are no clusters, as on a Mac, Ray takes 127.0.0.1 for this node's address, and listens there
    alone; `_node_ip_address` does not bind every port."""
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True


def address_of_this_nodes_ray() -> str:
    """HOST:PORT of the Ray of RAY_ADDRESS or of this node, to be tried before `ray.init` would for many minutes.

    Raises ConnectionError where there is none.
    """
    return str(services.canonicalize_bootstrap_address_or_die("auto"))


def address_from_environment() -> str:
    """As `address_of_this_nodes_ray`, as it is written, not as other nodes see it."""
    return str(services.get_ray_address_from_environment("auto", None))


def this_nodes_address() -> str:
    """This node's address in a cluster, before one is joined."""
    return str(services.get_node_ip_address())


def read_authentication_mode() -> None:
    """Ray reads RAY_AUTH_MODE when it is imported; this has it read again."""
    Config.initialize("")


def authentication_token() -> str:
    """The token that Ray would show, whatever RAY_AUTH_MODE says; empty without one. Raises Ray's
    AuthenticationError for one that cannot be read."""
    loader = AuthenticationTokenLoader.instance()
    return str(loader.get_raw_token(ignore_auth_mode=True)) if loader.has_token(ignore_auth_mode=True) else ""


def forget_authentication_token() -> None:
    """Ray keeps the token that it once read, or that there was none."""
    AuthenticationTokenLoader.instance().reset_cache()


def keep_from_trials(names: Collection[str]) -> None:
    """Tune hands some of the driver's variables to its trials through Ray's agent, which writes them to a log: not
    these."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(names)


def torch_backend() -> Any:
    """Train's backend that makes torch's process group, to be extended: `TorchConfig` has no hook before that."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend


class InOneProcess:
    """Mixed into one of Ray's trainers: its controller runs in the process that calls `fit`, which waits for it anyway.

    Train starts a process for it, which imports torch and Train before it starts the workers: a third of a start. And
    one for its cleaner of placement groups, which asks the dashboard (`raybench.cluster.nodes` has its own), and one
    that imports Ray Data beside the first leg, for datasets that there are none of. Train has no setting for them.
    """

    UNWANTED: Final = ("PlacementGroupCleanerCallback", "DatasetsCallback")

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in self.UNWANTED]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        from ray.train.v2._internal.execution.controller import TrainController

        controller = TrainController(**arguments)
        asyncio.run(controller.run())
        return controller.get_result()
