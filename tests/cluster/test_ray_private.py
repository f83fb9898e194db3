"""What raybench uses of Ray's that Ray does not promise: each is there, and does what it is used for."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import time
from pathlib import Path

import pytest
import ray
import ray.train
from ray._private import ray_constants
from ray._private import worker as ray_worker

import raybench
from raybench.cluster import ray_private

PACKAGE = Path(raybench.__file__).parent
PRIVATE = ("ray._private", "ray._raylet", "ray.core.generated", "ray.tune.execution", "ray.train.v2")


def test_one_file_alone_touches_what_is_private() -> None:
    touching = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            private = isinstance(node, ast.Attribute) and ast.unparse(node).startswith(PRIVATE)
            if private or any(name.startswith(PRIVATE) for name in named):
                touching.add(str(path.relative_to(PACKAGE)))
    assert touching == {"cluster/ray_private.py"}


def test_every_touchpoint_says_why() -> None:
    functions = [value for _, value in inspect.getmembers(ray_private, inspect.isfunction)]
    own = [function for function in functions if function.__module__ == ray_private.__name__]
    assert len(own) > 12
    assert [function.__name__ for function in own if not function.__doc__] == []


def test_loopback_is_set_and_given_back() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTER
    with ray_private.on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert ray_constants.ENABLE_RAY_CLUSTER


def test_what_the_driver_switches_off_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution import class_cache

    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", set(class_cache.ENV_VARS_TO_PROPAGATE))
    monkeypatch.setattr(ray_worker, "print_to_stdstream", ray_worker.print_to_stdstream)
    assert "AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE
    ray_private.keep_from_trials({"AWS_SECRET_ACCESS_KEY"})
    assert "AWS_SECRET_ACCESS_KEY" not in class_cache.ENV_VARS_TO_PROPAGATE
    before = ray_worker.print_to_stdstream
    ray_private.silence_dead_workers()
    assert ray_worker.print_to_stdstream is not before


def test_trains_backend_and_cleaner_are_where_they_were() -> None:
    from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    assert list(inspect.signature(ray_private.torch_backend().on_start).parameters)[1:3] == [
        "worker_group", "backend_config",
    ]  # fmt: skip

    class Trainer(ray_private.InOneProcess, DataParallelTrainer):
        pass

    source = inspect.getsource(DataParallelTrainer._create_default_callbacks)
    assert [name for name in Trainer.UNWANTED if name not in source] == []
    # A group's workers start without a provider of datasets.
    started = inspect.signature(RayTrainWorker.init_train_context).parameters
    assert started["dataset_shard_provider"].default is None
    assert Trainer._create_default_callbacks is ray_private.InOneProcess._create_default_callbacks


def test_what_a_block_starts_no_processes_for_is_where_it_was() -> None:
    from ray.train import ScalingConfig
    from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
    from ray.train.v2._internal.execution.worker_group import state, worker_group
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    assert "scaling_policy=create_scaling_policy(" in inspect.getsource(DataParallelTrainer.fit)
    policy = ray_private._quiet(create_scaling_policy(ScalingConfig(num_workers=3)))
    policy.after_controller_start(None)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 3
    assert policy._coordinator_client is None
    before = worker_group.SynchronizationActor
    with ray_private._no_synchronization():
        assert worker_group.SynchronizationActor.options(label_selector={}).remote(timeout_s=1) == "no actor"
        state._shutdown_sync_actor("no actor")
    assert worker_group.SynchronizationActor is before


def test_errors_are_wrapped_as_endings_unwraps_them() -> None:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    inner = ValueError("inner")
    error = WorkerHealthCheckFailedError("outer", inner)
    assert any(getattr(error, name, None) is inner for name in ray_private.WRAPPED_ERRORS)


@pytest.mark.ray
def test_a_running_ray_answers(ray_address: str) -> None:  # the fixture has joined it
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    assert set(ray_private.available_resources_by_node()) <= set(nodes)
    assert any(ray_private.HEAD_RESOURCE in node["Resources"] for node in nodes.values())
    assert all(node["Labels"][ray_private.NODE_ID_LABEL] == node_id for node_id, node in nodes.items())
    actor = ray.remote(num_cpus=0)(type("Quiet", (), {"pid": lambda _self: __import__("os").getpid()})).remote()
    pid = ray.get(actor.pid.remote())  # waits until it runs: before that, its table has none
    table = ray_private.actor_table(actor._actor_id.hex())
    assert table["Pid"] == pid
    assert table["Address"]["NodeID"] in nodes
    job = ray.get_runtime_context().get_job_id()
    assert list(ray_private.placement_groups_of_actors(job)) == []
    folder = ray_private.log_folder()
    assert folder is not None
    assert folder.is_dir()


class Runner:
    """An actor that runs a group of two, as a block's process does; rank 0 ends a second before rank 1."""

    def fit(self, end: str, folder: str) -> str:
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        class Trainer(ray_private.InOneProcess, DataParallelTrainer):
            pass

        def work() -> str:
            rank = ray.train.get_context().get_world_rank()
            time.sleep(1 + rank)
            if rank == 0 and end == "raises":
                raise ValueError("planted")
            if rank == 0 and end == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            return f"rank {rank}"

        scaling, run = ScalingConfig(num_workers=2), RunConfig(name=end, storage_path=folder)
        try:
            return str(Trainer(work, scaling_config=scaling, run_config=run).fit().return_value)
        except TrainingFailedError as error:
            return " ".join(f"rank {rank}" for rank in error.worker_failures)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_a_groups_end_is_not_waited_for(ray_address: str, tmp_path: Path) -> None:
    """By itself Train looks at its workers once in this interval, longer than the test may take."""
    variables = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "600"}
    runner = ray.remote(num_cpus=0, runtime_env={"env_vars": variables})(Runner).remote()
    ends = [ray.get(runner.fit.remote(end, str(tmp_path))) for end in ("returns", "raises", "dies")]
    assert ends == ["rank 0", "rank 0", "rank 0"]
