"""One trial: a Ray Train `TorchTrainer` for each group of its legs, until every leg has an outcome.

Runs inside a Ray Tune trial actor. A group is all the legs that are left (or one of them, with
`isolation: fresh`). When a leg ends its group, it becomes a failure and what is left a new group. When a node is lost,
or a process that only watches the workers, no leg is to blame: what is left runs again, on other nodes from the start.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from raybench.cluster.connection import ACTOR_NAMESPACE
from raybench.cluster.nodes import look, node_name
from raybench.cluster.orphans import remove_orphaned_placement_groups
from raybench.cluster.placement import Cluster, check_placement, need_of, threads_per_worker, use_gpu, worker_resources
from raybench.declare.plan import Leg, Trial
from raybench.driver.deaths import oom_kills
from raybench.driver.endings import failure_of, first_words, why_cut
from raybench.errors import TrialGivenUp
from raybench.ledger import outcome as outcomes
from raybench.ledger.outcome import Outcome
from raybench.machine.variables import WORKING_TREE

_STARTS = 2  # how often a group may fail to start before its trial is given up
_CUTS = 3  # how often a trial's processes may be lost through no fault of a leg
_SETTLING_SECONDS = 2.0  # until Ray has noticed what died with a process that was killed
_NODE_ID = "ray.io/node-id"  # a label that Ray gives every node
_SECONDS_BETWEEN_QUESTIONS = 1.0  # of a trial that waits for its nodes
# Processes on nodes that are there and free start within seconds; nodes that have to be started get the sweep's `wait`.
_START_SECONDS = 120
# Runs one group to its end: the trial, the name of the group, the config of `run_trial`, the nodes to run on.
Fit = Callable[[Trial, str, dict[str, Any], list[str]], str]


def run_trial(config: dict[str, Any]) -> dict[str, Any]:
    """Tune's trainable.

    `config`: trial_id, recorder (an actor's name), cluster, storage and working_tree (absolute paths), `versions` of
    the driver, `variables` of the driver for the workers, `wait_seconds` for nodes that have to be started; `fit`,
    where `fit_torch` is not to run the groups.

    Returns `problem`, why the trial could not be run to its end; empty where it was. It raises nothing, because Tune
    is to start it again when its process was killed, and then only.
    """
    recorder = ray.get_actor(config["recorder"], namespace=ACTOR_NAMESPACE)
    trial = Trial.model_validate_json(ray.get(recorder.trial_began.remote(config["trial_id"], uuid.uuid4().hex)))
    try:
        _run_groups(recorder, trial, config)
    except Exception as error:
        traceback.print_exc()
        return {"problem": first_words(error)}
    finally:
        ray.get(recorder.trial_ended.remote(trial.trial_id))
    return {"problem": ""}


def _run_groups(recorder: Any, trial: Trial, config: dict[str, Any]) -> None:
    """Group after group, until no leg is left. Raises TrialGivenUp."""
    fit: Fit = config.get("fit", fit_torch)
    starts_left, cuts_left, legs = _STARTS, _CUTS, None
    while (group := ray.get(recorder.next_group.remote(trial.trial_id)))["legs"]:
        if group["legs"] != legs:
            starts_left, legs = _STARTS, group["legs"]  # it gets on
        if group["cut"]:
            time.sleep(_SETTLING_SECONDS)
            remove_orphaned_placement_groups()
        node_ids = _admitted(recorder, trial, config, group["nodes"] if starts_left == _STARTS else [])
        if node_ids is None:
            continue  # the sweep is to stop
        name = f"{trial.trial_id}-{uuid.uuid4().hex[:8]}"
        kills = oom_kills()
        try:
            if problem := fit(trial, name, config, node_ids):
                raise TrialGivenUp(f"wrongly placed: {problem}")
        except (TrainingFailedError, ray.exceptions.RayActorError) as error:
            ended = ray.get(recorder.unfinished.remote(name))
            why = why_cut(error, ended["node_ids"])
            if why:
                cuts_left -= 1
                ray.get(recorder.cut.remote(trial.trial_id, name, why))
            elif ended["leg_id"] is None:
                starts_left -= 1
                ray.get(recorder.not_started.remote(trial.trial_id))
            else:
                own_machine = len(config["cluster"].nodes) == 1
                kills = oom_kills() - kills if own_machine else 0
                failure = failure_of(trial, error, ended["seconds"], oom_kills=kills)
                failure = replace(failure, started_at=ended["started_at"])
                ray.get(recorder.record.remote(name, ended["leg_id"], outcomes.to_dict(failure)))
            if not cuts_left:
                raise TrialGivenUp(f"its processes were lost {_CUTS} times; the last time: {why}") from error
            if not starts_left:
                raise TrialGivenUp(first_words(error)) from error


def _admitted(recorder: Any, trial: Trial, config: dict[str, Any], wanted: list[str]) -> list[str] | None:
    """Wait for the trial's turn. Returns Ray's ids of its nodes, none where these have yet to be started, and None when
    the sweep is to stop. Raises TrialGivenUp when its nodes did not come."""
    need, fleet = need_of(trial, config["cluster"]), None
    while True:
        answer = ray.get(recorder.admit.remote(trial.trial_id, need, wanted, fleet))
        fleet = None
        match answer["state"]:
            case "granted":
                return list(answer["node_ids"])
            case "stop":
                return None
            case "refused":
                raise TrialGivenUp(answer["why"])
            case "look":
                fleet = look()
            case _:
                time.sleep(_SECONDS_BETWEEN_QUESTIONS)


def _scaling(trial: Trial, cluster: Cluster, node_ids: list[str]) -> ScalingConfig:
    """The workers, as many on each of the nodes; on nodes that Ray picks where these have yet to be started."""
    setting, each = trial.setting, trial.setting.workers_per_node
    # Packed, no more than `each` workers have room in a node's slot.
    strategy = "STRICT_PACK" if setting.nodes == 1 else "STRICT_SPREAD" if each == 1 else "PACK"
    chosen = [{_NODE_ID: node_id} for node_id in node_ids for _ in range(each)]
    return ScalingConfig(
        num_workers=setting.workers,
        use_gpu=use_gpu(setting.device, cluster),
        resources_per_worker=worker_resources(trial, cluster),
        placement_strategy=strategy,
        label_selector=chosen or setting.node_labels or None,
    )


def fit_torch(trial: Trial, name: str, config: dict[str, Any], node_ids: list[str]) -> str:
    """Run one group to its end, on these nodes where any are given. Returns why it was wrongly placed, where it was.

    Raises TrainingFailedError when its processes die or a leg ends it, and RayActorError when the process that watches
    them dies.
    """
    import ray.train.torch  # torch with it, which the driver can do without

    from raybench.cluster.process_group import SpanningTorchConfig

    class Trainer(WithoutCleaner, ray.train.torch.TorchTrainer):  # type: ignore[misc]
        pass

    torch_config = SpanningTorchConfig if trial.setting.nodes > 1 else ray.train.torch.TorchConfig
    backend = "nccl" if use_gpu(trial.setting.device, config["cluster"]) else "gloo"
    trainer = Trainer(
        _worker,
        torch_config=torch_config(backend=backend, timeout_s=int(trial.leg_timeout_seconds) + 60),
        **trainer_arguments(trial, name, config, node_ids),
    )
    return str(trainer.fit().return_value or "")


class WithoutCleaner:
    """Ray's trainer, without its cleaner of placement groups, a process more a group: see `cluster/orphans.py`."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def trainer_arguments(trial: Trial, name: str, config: dict[str, Any], node_ids: list[str]) -> dict[str, Any]:
    """What any of Ray's trainers is told of a group: its workers, where they run, and that nothing is tried again."""
    cluster: Cluster = config["cluster"]
    on_gpu = use_gpu(trial.setting.device, cluster)
    variables = worker_variables(on_gpu, threads_per_worker(trial, cluster), config["working_tree"])
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_START_SECONDS if node_ids else config["wait_seconds"])
    return {
        "train_loop_config": {
            "recorder": config["recorder"], "trial_id": trial.trial_id, "group": name, "use_gpu": on_gpu,
            "versions": config["versions"],
        },
        "scaling_config": _scaling(trial, cluster, node_ids),
        "run_config": RunConfig(
            name=name,
            storage_path=config["storage"],
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            worker_runtime_env={"env_vars": config["variables"] | variables},
        ),
    }  # fmt: skip


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


def _worker(config: dict[str, Any]) -> str:
    """What each Ray Train worker runs, in a process group of torch's. Returns as `run_group` does."""
    import torch

    from raybench.training.environment import place
    from raybench.training.ranks import Ranks
    from raybench.training.worker import run_legs

    device = torch.device("cuda", torch.cuda.current_device()) if config["use_gpu"] else torch.device("cpu")
    return run_group(config, lambda trial: Ranks.joined(device, trial.leg_timeout_seconds), place(device), run_legs)


def run_group(
    config: dict[str, Any], join: Callable[[Trial], Any], place: Mapping[str, Any], run_legs: Callable[..., None]
) -> str:
    """A group's legs, in each of its processes, handed over to the recorder one by one.

    `config` is the `train_loop_config`; `join` meets the other ranks; `place` is what there is to say of this process
    beside its node (see `raybench.training.environment.place`); `run_legs` is as that of `raybench.training.worker`.
    Returns why the group is wrongly placed; empty where it is not.
    """
    recorder = ray.get_actor(config["recorder"], namespace=ACTOR_NAMESPACE)
    trial = Trial.model_validate_json(ray.get(recorder.trial.remote(config["trial_id"])))
    group = config["group"]
    ranks = join(trial)
    here = _node()
    places = ranks.gather({**here, **place})
    if problem := check_placement(places, trial.setting, config["versions"]):
        return problem
    answer = ray.get(recorder.group_placed.remote(trial.trial_id, group, places)) if ranks.rank == 0 else None
    wanted = ranks.gather(answer)[0]

    def begin(leg: Leg) -> bool:
        return bool(ray.get(recorder.begin.remote(group, leg.leg_id, here["node"])))

    def record(leg: Leg, outcome: Outcome) -> None:
        ray.get(recorder.record.remote(group, leg.leg_id, outcomes.to_dict(outcome)))

    legs = [leg for leg in trial.legs if leg.leg_id in wanted]
    if legs:
        batches = {trial.setting_id: ray.get(recorder.largest_batches.remote(trial.trial_id))}
        run_legs([(trial, legs)], ranks, begin, record, batches)
    return ""


def _node() -> dict[str, str]:
    """Where this process runs: `node`, a name, and `node_id`, Ray's."""
    node_id = ray.get_runtime_context().get_node_id()
    names = [node_name(node) for node in ray.nodes() if node["NodeID"] == node_id]
    return {"node": names[0] if names else socket.gethostname(), "node_id": node_id}
