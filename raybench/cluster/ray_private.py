"""Every use of Ray internals that may change without notice: one function for each, with the reason.

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

HEAD_RESOURCE: Final = "node:__internal_head__"  # only the head has it; Ray's public strategies cannot name the head
NODE_ID_LABEL: Final = "ray.io/node-id"  # Ray labels every node with it; places workers on granted nodes
CLUSTER_ID_METHOD: Final = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # of Ray's head; takes an empty message
# Ray calls the function that this variable of a worker names, first of all. Public only for all workers of a driver.
SETUP_HOOK: Final = ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR
# The attributes in which Ray's and Train's wrappers keep the wrapped exception.
WRAPPED_ERRORS: Final = ("health_check_failure", "_base_exc", "cause", "__cause__")
_LAST_LOOKS_SECONDS: Final = 0.1  # between looks at a group whose rank 0 has ended


def available_resources_by_node() -> Mapping[str, Mapping[str, float]]:
    """Free resources by node id. `ray.available_resources` gives only the cluster's sum."""
    free: Mapping[str, Mapping[str, float]] = ray_state.available_resources_per_node()
    return free


def actor_table(actor_id: str) -> Mapping[str, Any]:
    """The GCS's entry for an actor: `Pid`, `State`, `Address`. Ray's public state API needs the dashboard, which a Ray
    of one machine does not run."""
    table: Mapping[str, Any] = ray_state.state.actor_table(actor_id)
    return table


def placement_groups_of_actors(job_id: str) -> Iterator[tuple[str, PlacementGroup]]:
    """The living placement groups of a job, each with the id of the actor that made it. No public call gives these."""
    for data in ray_state.state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(data)
        if group.state != gcs_pb2.PlacementGroupTableData.REMOVED and group.creator_job_id.hex() == job_id:
            yield group.creator_actor_id.hex(), PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


def cluster_config() -> Any:
    """The autoscaler's node groups as the GCS knows them; None where it does not. No public call gives these."""
    return ray_state.state.get_cluster_config()


def log_folder() -> Path | None:
    """The log folder of this session's processes; None before a session. No public call gives it."""
    node = getattr(ray_worker.global_worker, "node", None) or ray_worker._global_node
    return Path(node.get_logs_dir_path()) if node else None


def own_processes() -> Mapping[str, list[Any]]:
    """The processes, by kind, of the Ray that this process started. They are killed when its head is gone, because
    `ray.shutdown` would wait for it."""
    started: Mapping[str, list[Any]] = ray_worker._global_node.all_processes
    return started


RAYLET: Final = ray_constants.PROCESS_TYPE_RAYLET  # the raylet's key in `own_processes`


def silence_dead_workers() -> None:
    """Keep the raylet from reporting dead workers on the driver's terminal, which it does whatever `log_to_driver`
    says. A process that died becomes a failure row."""
    ray_worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Make Ray use 127.0.0.1 as this node's address and listen only there, by telling it that clusters are unavailable,
    as on a Mac. `_node_ip_address` would still leave some ports on every interface."""
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True


def address_of_this_nodes_ray() -> str:
    """HOST:PORT of the Ray of RAY_ADDRESS or of this node. Testing it is fast; `ray.init` would retry for many minutes.

    Raises ConnectionError where there is none.
    """
    return str(services.canonicalize_bootstrap_address_or_die("auto"))


def address_from_environment() -> str:
    """Like `address_of_this_nodes_ray`, but as written, not as other nodes see it."""
    return str(services.get_ray_address_from_environment("auto", None))


def this_nodes_address() -> str:
    """This node's address in a cluster, known before joining one."""
    return str(services.get_node_ip_address())


def read_authentication_mode() -> None:
    """Make Ray read RAY_AUTH_MODE again; by itself it does so only when imported."""
    Config.initialize("")


def authentication_token() -> str:
    """The token that Ray would send, whatever RAY_AUTH_MODE says; empty without one. Raises Ray's AuthenticationError
    where it cannot be read."""
    loader = AuthenticationTokenLoader.instance()
    return str(loader.get_raw_token(ignore_auth_mode=True)) if loader.has_token(ignore_auth_mode=True) else ""


def forget_authentication_token() -> None:
    """Make Ray forget its cached token, or that it found none."""
    AuthenticationTokenLoader.instance().reset_cache()


def keep_from_trials(names: Collection[str]) -> None:
    """Keep these driver variables from Tune's trials: Tune passes some through Ray's agent, which logs them."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(names)


def torch_backend() -> Any:
    """Train's backend that makes torch's process group, for subclassing: `TorchConfig` has no earlier hook."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend


class InOneProcess:
    """Mixin for Ray's trainers: the controller runs in the process that calls `fit`, which waits for it anyway.

    Train would start a process for it, which imports torch and Train before it starts the workers: a third of a start.
    It would start one for its cleaner of placement groups, which asks the dashboard (`raybench.cluster.nodes` has its
    own), and one that imports Ray Data beside the first leg, for datasets that raybench has none of. Train has no
    setting for them, nor for what is changed below.
    """

    UNWANTED: Final = ("PlacementGroupCleanerCallback", "DatasetsCallback")

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in self.UNWANTED]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        with _no_synchronization():
            controller = _prompt_controller()(**{**arguments, "scaling_policy": _quiet(arguments["scaling_policy"])})
            asyncio.run(controller.run())
            return controller.get_result()


def _prompt_controller() -> type:
    """Train's controller, which learns of a group's end when rank 0 ends: by itself it looks every two seconds.

    Looking more often would disturb what is timed. Rank 0's process waits for its training thread in place of the
    controller, without using a processor.
    """
    from ray.train.v2._internal.execution.controller import TrainController

    class Prompt(TrainController):  # type: ignore[misc]
        _wait: asyncio.Future[bool] | None = None
        _has_ended = False  # rank 0; the others are about to end

        async def _poll_workers(self) -> Any:
            seconds = self._health_check_interval_s
            if self._has_ended:
                await asyncio.sleep(min(_LAST_LOOKS_SECONDS, seconds))
            else:
                worker = self._worker_group.get_workers()[0]
                wait = self._wait or asyncio.wrap_future(worker.execute_async(_wait_for_training, seconds).future())
                done, _ = await asyncio.wait({wait}, timeout=seconds)
                self._wait = None if done else wait
                # A worker that died has ended, too: the look below finds out why.
                self._has_ended = bool(done) and (wait.exception() is not None or bool(wait.result()))
            self._latest_poll_time = float("-inf")  # look now
            return await super()._poll_workers()

    return Prompt


def _wait_for_training(seconds: float) -> bool:
    """In a worker's process: whether its training ended within `seconds`. Train has no call that waits for it."""
    from ray.train.v2._internal.execution.context import get_train_context

    thread = get_train_context().execution_context.training_thread_runner._thread
    thread.join(seconds)
    return not thread.is_alive()


def _quiet(policy: Any) -> Any:
    """Train's policy of a fixed number of workers, without its actor that tells the autoscaler of them every 20 s.

    That actor is a process which the first block waits for, and which then works beside what is timed. The autoscaler
    sees what is wanted by the placement groups.
    """
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class Quiet(FixedScalingPolicy):  # type: ignore[misc]
        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    return Quiet(policy.scaling_config)


class _NoActor:
    """Stands in for a class of actors: what it starts is a word."""

    def options(self, **_: Any) -> _NoActor:
        return self

    def remote(self, **_: Any) -> str:
        return "no actor"


@contextlib.contextmanager
def _no_synchronization() -> Iterator[None]:
    """Without the actor, a process, where Train's workers meet when they report checkpoints: raybench's report none."""
    from ray.train.v2._internal.execution.worker_group import state, worker_group

    before = worker_group.SynchronizationActor, state._shutdown_sync_actor
    worker_group.SynchronizationActor, state._shutdown_sync_actor = _NoActor(), lambda actor: None
    try:
        yield
    finally:
        worker_group.SynchronizationActor, state._shutdown_sync_actor = before
