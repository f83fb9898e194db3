"""One trial: a Ray Train `TorchTrainer` for each group of its legs, until every leg has an outcome.

Runs inside a Ray Tune trial actor. A group is all the legs that are left (or one of them, with
`isolation: fresh`). When a leg ends its group, it becomes a failure and what is left a new group.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig

from raybench import outcome as outcomes
from raybench.datasets import WORKING_TREE
from raybench.outcome import Failure, FailureKind, Outcome
from raybench.placement import SLOT, Cluster, threads_per_worker, use_gpu
from raybench.plan import Leg, Trial
from raybench.recorder import ACTOR_NAMESPACE

_STARTS = 2  # how often a group may fail to start before its trial is given up


class GroupNeverStarted(RuntimeError):
    """A group of processes ended before its first leg began: the cluster's trouble, not a leg's."""


def run_trial(config: dict[str, Any]) -> dict[str, Any]:
    """Tune's trainable.

    `config`: trial_id, recorder (an actor's name), cluster, storage and working_tree (absolute paths).

    Raises GroupNeverStarted when no group could be started.
    """
    recorder = ray.get_actor(config["recorder"], namespace=ACTOR_NAMESPACE)
    trial = Trial.model_validate_json(ray.get(recorder.trial_began.remote(config["trial_id"])))
    starts_left = _STARTS
    try:
        while leg_ids := ray.get(recorder.remaining.remote(trial.trial_id)):
            group = leg_ids if trial.isolation == "shared" else leg_ids[:1]
            name = f"{trial.trial_id}-{uuid.uuid4().hex[:8]}"
            try:
                _fit(trial, group, name, config)
            except ray.train.TrainingFailedError as error:
                died = ray.get(recorder.unfinished.remote(name))
                if died is None:
                    starts_left -= 1
                    if not starts_left:
                        raise GroupNeverStarted(_first_words(error)) from error
                    continue
                failure = _failure(trial, error, *died)
                ray.get(recorder.record.remote(name, died[0], outcomes.to_dict(failure)))
    finally:
        ray.get(recorder.trial_ended.remote(trial.trial_id))
    return {"legs": len(trial.legs)}


def _fit(trial: Trial, leg_ids: list[str], name: str, config: dict[str, Any]) -> None:
    """Run one group to its end. Raises TrainingFailedError when its processes die or a leg ends it."""
    setting = trial.setting
    cluster: Cluster = config["cluster"]
    on_gpu = use_gpu(setting.device, cluster)
    resources: dict[str, float] = {"CPU": 1}
    if on_gpu:
        resources["GPU"] = 1
    if cluster.slots:
        resources[SLOT] = int(10_000 / setting.workers) / 10_000  # one node has one slot, for one trial
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "recorder": config["recorder"],
            "trial_id": trial.trial_id,
            "leg_ids": leg_ids,
            "group": name,
            "use_gpu": on_gpu,
        },
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if on_gpu else "gloo", timeout_s=int(trial.leg_timeout_seconds) + 60
        ),
        scaling_config=ScalingConfig(
            num_workers=setting.workers,
            use_gpu=on_gpu,
            resources_per_worker=resources,
            placement_strategy="STRICT_PACK",
        ),
        run_config=RunConfig(
            name=name,
            storage_path=config["storage"],
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            worker_runtime_env={
                "env_vars": worker_variables(
                    on_gpu, threads_per_worker(setting.workers, cluster), config["working_tree"]
                )
            },
        ),
    )
    trainer.fit()


def worker_variables(on_gpu: bool, threads: int, working_tree: str) -> dict[str, str]:
    """The environment of the worker processes, set before they import torch or deepspeed."""
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": "cuda" if on_gpu else "cpu",
        WORKING_TREE: working_tree,
        "PYTHONPATH": os.pathsep.join(filter(None, [working_tree, os.environ.get("PYTHONPATH")])),  # own models
    }
    if not on_gpu:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # a CPU worker on a GPU node would see the GPUs
    return variables


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the group's legs, handed over to the recorder one by one."""
    import torch

    from raybench.training.ranks import Ranks
    from raybench.training.worker import run_legs

    recorder = ray.get_actor(config["recorder"], namespace=ACTOR_NAMESPACE)
    trial = Trial.model_validate_json(ray.get(recorder.trial.remote(config["trial_id"])))
    wanted = set(config["leg_ids"])
    group = config["group"]
    device = torch.device("cuda", torch.cuda.current_device()) if config["use_gpu"] else torch.device("cpu")
    ranks = Ranks.joined(device, trial.leg_timeout_seconds)

    def begin(leg: Leg) -> bool:
        return bool(ray.get(recorder.begin.remote(group, leg.leg_id, socket.gethostname())))

    def record(leg: Leg, outcome: Outcome) -> None:
        ray.get(recorder.record.remote(group, leg.leg_id, outcomes.to_dict(outcome)))

    legs = [leg for leg in trial.legs if leg.leg_id in wanted]
    run_legs(trial, legs, ranks, begin, record, ray.get(recorder.largest_batches.remote(trial.trial_id)))


def _failure(trial: Trial, error: Exception, leg_id: str, seconds: float) -> Failure:
    """Why the leg that ended its group did so, from what Ray Train says of the workers."""
    environment = {"node": socket.gethostname(), "trial_process": os.getpid()}
    kind: FailureKind = "crashed"
    message = _first_words(error)
    causes = {rank: _root(cause) for rank, cause in getattr(error, "worker_failures", {}).items()}
    own = next(((rank, c) for rank, c in sorted(causes.items()) if type(c).__name__ == "LegDied"), None)
    dead = next(((rank, c) for rank, c in sorted(causes.items()) if isinstance(c, ray.exceptions.RayError)), None)
    if seconds >= trial.leg_timeout_seconds:
        kind, message = "timeout", f"no end after {seconds:.0f} s; the limit is {trial.leg_timeout_seconds:.0f} s"
    elif dead is not None:
        low_memory = isinstance(dead[1], ray.exceptions.OutOfMemoryError) or "running low on memory" in str(dead[1])
        kind = "out_of_memory" if low_memory else "crashed"
        detail = re.search(r"exit detail: (.*?)(?: Some common causes|$)", str(dead[1]), re.MULTILINE)
        message = f"rank {dead[0]}: its process died: {detail[1] if detail else _first_words(dead[1])}"
    elif own is not None:
        kind, message = own[1].kind, own[1].message
    return Failure(kind, message, environment=environment)


def _root(error: BaseException) -> Any:
    """The exception behind Ray's and Train's wrappers."""
    for _ in range(10):
        wrapped = (getattr(error, name, None) for name in ("health_check_failure", "_base_exc", "cause", "__cause__"))
        inner = next((one for one in wrapped if one is not None), None)
        if not isinstance(inner, BaseException) or isinstance(error, ray.exceptions.RayActorError):
            return error
        error = inner
    return error


def _first_words(error: BaseException) -> str:
    """The first lines of an exception's text, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:6])[:1500] or type(error).__name__
