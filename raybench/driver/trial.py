"""A block's process, an actor of Ray Tune: runs one Ray Train `TorchTrainer` per group until every leg has an outcome.

A group is all remaining legs of the block that ask for the same versions (or one leg, with `isolation: fresh`).
A leg that ends its group becomes a failure, and the remaining legs become a new group. When a node is lost, no leg is
to blame: what is left runs again, on other nodes from the start.
"""

from __future__ import annotations

import functools
import os
import socket
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from raybench.cluster.admission import Granted, Look, Refused, Stop
from raybench.cluster.connection import ACTOR_NAMESPACE
from raybench.cluster.environments import environment_problem, own_operators, runtime_env
from raybench.cluster.nodes import look, node_name, remove_orphaned_placement_groups
from raybench.cluster.placement import Cluster, check_placement, need_of, threads_per_worker, use_gpu, worker_resources
from raybench.cluster.ray_private import HEAD_RESOURCE, NODE_ID_LABEL, SETUP_HOOK, InOneProcess
from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import StepChoice
from raybench.driver.endings import failure_of, first_words, why_cut
from raybench.driver.messages import Block, Group, GroupConfig, SweepConfig, Unfinished
from raybench.errors import TrialGivenUp
from raybench.ledger.outcome import Failure, Outcome
from raybench.machine.oom import oom_kills
from raybench.machine.places import RankReport
from raybench.machine.variables import WORKING_TREE
from raybench.statistics.num_steps import Pilot

_STARTS = 2  # how often a group may end before its first leg; then its trial or block is given up
_CUTS = 3  # how often a trial's processes may be lost through no fault of a leg
_DEATHS_SECONDS = 2.0  # time for Ray to notice which processes died with a killed one
ON_HEAD = {HEAD_RESOURCE: 0.0001}
_SECONDS_BETWEEN_QUESTIONS = 1.0  # while a block waits for its nodes
_SECONDS_BETWEEN_CLEARINGS = 10.0
# Processes on free nodes start within seconds; nodes that have to be started get the sweep's `wait`.
_START_SECONDS = 120
Report = Callable[[str, str], RankReport]  # makes a rank's report from its node's name and Ray's node id


class BlockRunner(tune.Trainable):  # type: ignore[misc]
    """Tune's trainable: one step runs one block. Tune reuses its process for the next block (`reset_config`).

    A result has `unrun`, the ids of trials that could not be finished, and `problem`, the reason; both are empty where
    all were. A step raises nothing, so that Tune restarts a block only when its process was killed.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """On the head node, without a CPU: it only waits, and its workers have their own resources."""
        return tune.PlacementGroupFactory([ON_HEAD])

    def setup(self, config: dict[str, Any]) -> None:
        """`config` has `sweep`, a SweepConfig, and `block`, a number."""
        self._sweep: SweepConfig = config["sweep"]
        self._number: int = config["block"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next block of the same sweep."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run the block."""
        recorder = ray.get_actor(self._sweep.recorder, namespace=ACTOR_NAMESPACE)
        block: Block = ray.get(recorder.block_began.remote(self._number, uuid.uuid4().hex))
        problem = ""
        try:
            problem = _run_groups(recorder, block, self._sweep)
        except Exception as error:
            traceback.print_exc()
            problem = first_words(error)
        finally:
            unrun = ray.get(recorder.block_ended.remote(block.number))
        return {"problem": problem, "unrun": unrun, "done": True}


def _run_groups(recorder: Any, block: Block, sweep: SweepConfig) -> str:
    """Run group after group until no leg is left. Returns why trials of the block were given up, empty where none was.
    Raises TrialGivenUp when the whole block is given up."""
    fit = sweep.fit or fit_torch
    starts_left, cuts_left, first_leg, problem = _STARTS, _CUTS, "", ""
    while (group := _next_group(recorder, block)).legs:
        if group.legs[0] != first_leg:
            starts_left, cuts_left, first_leg = _STARTS, _CUTS, group.legs[0]  # there was progress: reset the counters
        if group.was_cut:
            time.sleep(_DEATHS_SECONDS)
        node_ids = _admitted(recorder, block, sweep, group.nodes if starts_left == _STARTS else ())
        if node_ids is None:
            continue  # the sweep is to stop
        folder = Path(sweep.working_tree)
        if why := environment_problem(group.packages, node_ids, folder, sweep.environments):
            ray.get(recorder.refuse.remote(block.number, group.legs, Failure("unsupported", why)))
            continue
        name = f"{block.first.trial_id}-{uuid.uuid4().hex[:8]}"
        kills = oom_kills()
        try:
            if misplaced := fit(replace(block, packages=group.packages), name, sweep, node_ids):
                raise TrialGivenUp(f"wrongly placed: {misplaced}")
        except TrainingFailedError as error:
            ended: Unfinished = ray.get(recorder.unfinished.remote(name))
            why = why_cut(error, ended.node_ids)
            if why:
                cuts_left -= 1
                ray.get(recorder.cut.remote(block.number, name, why))
            elif ended.leg_id is None:
                starts_left -= 1
                ray.get(recorder.not_started.remote(block.number))
            else:
                own_machine = len(sweep.cluster.nodes) == 1
                kills = oom_kills() - kills if own_machine else 0
                failure = failure_of(block.first, error, ended.seconds, oom_kills=kills)
                failure = replace(failure, started_at=ended.started_at)
                ray.get(recorder.record.remote(name, ended.leg_id, failure))
            if not cuts_left:
                raise TrialGivenUp(f"its processes were lost {_CUTS} times; the last time: {why}") from error
            if not starts_left:
                problem = first_words(error)
                if not ended.node_ids:  # no group of this block ever started; the other trials would not either
                    raise TrialGivenUp(problem) from error
                ray.get(recorder.give_up.remote(block.number, first_leg))
    return problem


def _next_group(recorder: Any, block: Block) -> Group:
    group: Group = ray.get(recorder.next_group.remote(block.number))
    return group


def _admitted(recorder: Any, block: Block, sweep: SweepConfig, wanted: tuple[str, ...]) -> tuple[str, ...] | None:
    """Wait for the block's turn. Returns Ray's ids of its nodes: empty where these have yet to be started, None when
    the sweep is to stop. Raises TrialGivenUp when its nodes did not come."""
    need, fleet, cleared_at = need_of(block.first, sweep.cluster), None, float("-inf")
    while True:
        answer = ray.get(recorder.admit.remote(block.number, need, wanted, fleet))
        fleet = None
        match answer:
            case Granted(node_ids):
                return node_ids
            case Stop():
                return None
            case Refused(why):
                raise TrialGivenUp(why)
            case Look():
                if time.monotonic() - cleared_at > _SECONDS_BETWEEN_CLEARINGS:
                    remove_orphaned_placement_groups()  # whichever process left them, and whenever it was killed
                    cleared_at = time.monotonic()
                fleet = look()
            case _:
                time.sleep(_SECONDS_BETWEEN_QUESTIONS)


def _scaling(trial: Trial, cluster: Cluster, node_ids: tuple[str, ...]) -> ScalingConfig:
    """The workers, equally many on each node; Ray picks the nodes where these have yet to be started."""
    setting, each = trial.setting, trial.setting.workers_per_node
    # PACK: a node's slot has room for `each` workers and no more.
    strategy = "STRICT_PACK" if setting.nodes == 1 else "STRICT_SPREAD" if each == 1 else "PACK"
    chosen = [{NODE_ID_LABEL: node_id} for node_id in node_ids for _ in range(each)]
    return ScalingConfig(
        num_workers=setting.workers,
        use_gpu=use_gpu(setting.device, cluster),
        resources_per_worker=worker_resources(trial, cluster),
        placement_strategy=strategy,
        label_selector=chosen or setting.node_labels or None,
    )


def fit_torch(block: Block, name: str, sweep: SweepConfig, node_ids: tuple[str, ...]) -> str:
    """Run one group to its end, on these nodes if any are given. Returns why it was wrongly placed, else "".

    Raises TrainingFailedError when its processes die or a leg ends it.
    """
    import ray.train.torch  # imports torch, which the driver does not need

    from raybench.cluster.process_group import SpanningTorchConfig

    class Trainer(InOneProcess, ray.train.torch.TorchTrainer):  # type: ignore[misc]
        pass

    trial = block.first
    torch_config = SpanningTorchConfig if trial.setting.nodes > 1 else ray.train.torch.TorchConfig
    backend = "nccl" if use_gpu(trial.setting.device, sweep.cluster) else "gloo"
    trainer = Trainer(
        _worker,
        torch_config=torch_config(backend=backend, timeout_s=int(trial.leg_timeout_seconds) + 60),
        **trainer_arguments(block, name, sweep, node_ids),
    )
    return str(trainer.fit().return_value or "")


def trainer_arguments(block: Block, name: str, sweep: SweepConfig, node_ids: tuple[str, ...]) -> dict[str, Any]:
    """A group's arguments for any of Ray's trainers: its workers, where they run, and that nothing is retried."""
    trial, cluster = block.first, sweep.cluster
    on_gpu = use_gpu(trial.setting.device, cluster)
    versions = {name: version for name, version in sweep.versions.items() if name not in block.packages}
    variables = worker_variables(on_gpu, threads_per_worker(trial, cluster), sweep.working_tree)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_START_SECONDS if node_ids else sweep.wait_seconds)
    return {
        "train_loop_config": {
            "group": GroupConfig(sweep.recorder, block.number, name, on_gpu, versions, block.packages)
        },
        "scaling_config": _scaling(trial, cluster, node_ids),
        "run_config": RunConfig(
            name=name,
            storage_path=sweep.storage,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            worker_runtime_env={
                "env_vars": {**sweep.variables, **variables, **own_operators(block.packages)},
                **runtime_env(block.packages, Path(sweep.working_tree)),
            },
        ),
    }


def worker_variables(on_gpu: bool, threads: int, working_tree: str) -> dict[str, str]:
    """The environment of the worker processes, set before they import torch or deepspeed."""
    variables = {
        SETUP_HOOK: os.environ.get(SETUP_HOOK, "raybench.training.imports.begin"),  # unless the user has one
        "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": "cuda" if on_gpu else "cpu",
        WORKING_TREE: working_tree,
        "PYTHONPATH": os.pathsep.join(filter(None, [working_tree, os.environ.get("PYTHONPATH")])),  # own models
    }
    if not on_gpu:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # otherwise a CPU worker on a GPU node would see the GPUs
    return variables


def _worker(config: dict[str, GroupConfig]) -> str:
    """Runs in each Ray Train worker, in torch's process group. Returns as `run_group` does."""
    import torch

    from raybench.training.node.environment import report
    from raybench.training.ranks import Ranks
    from raybench.training.worker import run_legs

    group = config["group"]
    device = torch.device("cuda", torch.cuda.current_device()) if group.use_gpu else torch.device("cpu")
    own_report = functools.partial(report, device)
    return run_group(group, lambda trial: Ranks.joined(device, trial.leg_timeout_seconds), own_report, run_legs)


def run_group(group: GroupConfig, join: Callable[[Trial], Any], report: Report, run_legs: Callable[..., None]) -> str:
    """Run a group's legs in each of its processes; every outcome is handed to the recorder at once.

    `join` connects the ranks. `report` makes this process's report from its node's name and Ray's node id. `run_legs`
    is as in `raybench.training.worker`. Returns why the group is wrongly placed; empty where it is not.
    """
    recorder = ray.get_actor(group.recorder, namespace=ACTOR_NAMESPACE)
    block: Block = ray.get(recorder.block.remote(group.block))
    name = group.group
    ranks = join(block.first)
    node, node_id = _node()
    reports: list[RankReport] = ranks.gather(report(node, node_id))
    if problem := check_placement(reports, block.first.setting, group.versions):
        return problem
    answer = None
    if ranks.rank == 0:
        answer = ray.get(recorder.group_placed.remote(block.number, name, reports, group.packages))
    wanted = set(ranks.gather(answer)[0])

    def begin(leg: Leg) -> bool:
        return bool(ray.get(recorder.begin.remote(name, leg.leg_id, node)))

    def record(leg: Leg, outcome: Outcome) -> None:
        ray.get(recorder.record.remote(name, leg.leg_id, outcome))

    def choose_steps(setting_id: str, pilot: Pilot | None = None) -> StepChoice | None:
        choice: StepChoice | None = ray.get(recorder.choose_steps.remote(setting_id, pilot))
        return choice

    work = [(trial, [leg for leg in trial.legs if leg.leg_id in wanted]) for trial in block.trials]
    work = [(trial, legs) for trial, legs in work if legs]
    if work:
        run_legs(work, ranks, begin, record, ray.get(recorder.largest_batches.remote(block.number)), choose_steps)
    return ""


def _node() -> tuple[str, str]:
    """This process's node: its name and Ray's id."""
    node_id = ray.get_runtime_context().get_node_id()
    names = [node_name(node) for node in ray.nodes() if node["NodeID"] == node_id]
    return (names[0] if names else socket.gethostname()), node_id
