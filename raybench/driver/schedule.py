"""A sweep on Ray: the recorder, Ray Tune, which only runs the trials, and a thread that reports progress.

A sweep ends early when the user asks for it or the ledger cannot be written (running legs finish, no other begins),
and when the recorder dies and cannot be restarted, because nothing could be recorded.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

# Tune's own Ctrl-C handler would cut the running legs off; raybench.driver.interruption handles Ctrl-C here.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
# A trial's results go to the recorder; Tune's loggers would write three more files for each trial.
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
from ray import tune

from raybench.calibration.durations import known_pace
from raybench.cluster import ray_private
from raybench.cluster.connection import ACTOR_NAMESPACE, end_own_ray
from raybench.cluster.environments import Made
from raybench.cluster.nodes import look
from raybench.cluster.placement import Cluster, connection_problem
from raybench.declare.plan import Plan
from raybench.driver.display import Display
from raybench.driver.interruption import Interruption
from raybench.driver.messages import Block, Fit, News, SweepConfig
from raybench.driver.recorder import Recorder
from raybench.driver.searcher import BlockSearcher
from raybench.driver.trial import ON_HEAD, BlockRunner
from raybench.ledger.lock import release_on_exit
from raybench.machine.installed import own_versions
from raybench.machine.variables import RUN
from raybench.redaction import first_line, without_secrets
from raybench.stores.storage import AnyPath, address, hidden_folder, store_variables
from raybench.tracking.publishing import destination, mlflow_variables

# Tune passes these to trial processes through Ray's agent, which writes them to a log. No trial needs them.
ray_private.keep_from_trials({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"})

_SECONDS_BETWEEN_LOOKS = 1.0  # between two calls of the recorder
_LOOKS_BETWEEN_COUNTS = 10  # calls of the recorder between two counts of the cluster's nodes
_PATIENCE_SECONDS = 30.0
_ANSWER_SECONDS = 5.0  # a busy recorder is asked again
_HEAD_END_SECONDS = 3.0  # between the end of the recorder and that of the head with it
_HEAD_PATIENCE_SECONDS = 20.0  # Ray itself ends the process after 60 s, without a message
_OWN_HEAD_PATIENCE_SECONDS = 5.0  # for a local Ray on loopback, where no answer means dead
_RECORDER_RESTARTS = 20
_BLOCK_RESTARTS = 3  # how often a block restarts whose trial process was killed


class Stopping(Protocol):
    """Says how many trials each setting needs; see `raybench.analysis.stopping`."""

    def wanted(self, settings: Iterable[str]) -> dict[str, int]:
        """How many trials in total each open setting should have by the next look; empty when done."""

    def due(self, settings: Iterable[str]) -> dict[str, int]:
        """How many trials in total each setting should have by now, including settled settings."""

    def look(self) -> object:
        """Look at the ledger once every wanted trial has ended; None where it holds nothing yet."""


@dataclass(frozen=True)
class Ended:
    """How the trials ended: what could not be run, one line a trial."""

    unrun: list[str] = field(default_factory=list)
    recorder_died: str = ""  # the reason, empty where it did not die
    trouble: str = ""  # why the ledger cannot be written; empty where it can
    one_cause: str = ""  # the failure that every leg ended with, so that the rest was not run


def run_trials(
    plan: Plan,
    folder: AnyPath,
    space_yaml: str,
    cluster: Cluster,
    display: Display,
    interruption: Interruption,
    wait_seconds: float = 1200.0,
    fit: Fit | None = None,
    stopping: Stopping | None = None,
    environments: Made = frozenset(),
) -> Ended:
    """Run the plan's legs that the ledger in `folder` lacks, waiting up to `wait_seconds` for missing nodes.

    `environments` were made before (`make_environments`). `stopping` says which settings still need trials, where that
    is not fixed; it looks when nothing runs. `fit` replaces `raybench.driver.trial.fit_torch` for running a group.
    Raises StoppedNow when the user asks to end at once.
    """
    storage = hidden_folder(folder)
    shutil.rmtree(storage, ignore_errors=True)  # left by a killed driver; not part of this run
    storage.mkdir(parents=True)

    def lost(head: str) -> NoReturn:
        """End here and now: without a head, calls of Ray and Tune block until Ray ends the process itself."""
        display.__exit__(None, None, None)
        if cluster.is_local:
            end_own_ray()  # stops the recorder too: nobody may write after the lock is released
        shutil.rmtree(storage, ignore_errors=True)
        release_on_exit(folder)
        what = "Ray that this sweep started" if cluster.is_local else f"Ray cluster at {head}"
        print(
            f"raybench: the {what} no longer answers; what was measured is kept in {folder}, and the "
            "same command runs the rest",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(1)

    name = f"recorder-{plan.space}-{plan.sweep}-{uuid.uuid4().hex[:8]}"  # another user's may run the same sweep here
    recorder = _recorder(name, plan, folder, space_yaml, storage, wait_seconds, cluster)
    try:
        ray.get(recorder.news.remote(0))
    except ray.exceptions.RayActorError as error:
        shutil.rmtree(storage, ignore_errors=True)
        return _without_recorder(error, lost)

    def next_block(number: int) -> Block | None:
        """The recorder's next block; None where the recorder is gone, which the watch notices and reports."""
        try:
            block: Block | None = ray.get(recorder.next_block.remote(number))
        except ray.exceptions.RayActorError:
            return None
        return block

    settings = list(dict.fromkeys(trial.setting_id for trial in plan.trials))

    def more() -> bool:
        """Look at the verdicts once every wanted trial has ended. Returns whether settings stay open.

        If no open setting got its trials, for example for lack of nodes, there is no look; the same command continues
        later.
        """
        if stopping is None or interruption.requested or not want():
            return False
        wanted = stopping.wanted(settings)
        if not wanted or not any_complete(wanted) or stopping.look() is None:
            return False
        return bool(stopping.wanted(settings)) and want()

    def any_complete(wanted: dict[str, int]) -> bool:
        try:
            return bool(ray.get(recorder.any_complete.remote(wanted)))
        except ray.exceptions.RayActorError:
            return False

    def want() -> bool:
        """Tell the recorder which trials are wanted until the next look. Returns whether the sweep goes on."""
        assert stopping is not None
        due = stopping.due(settings)
        display.expect(due)
        try:
            return bool(ray.get(recorder.want.remote(due)))
        except ray.exceptions.RayActorError:
            return False

    if stopping is not None:
        want()

    def given_up(number: int) -> None:
        with contextlib.suppress(ray.exceptions.RayActorError):  # the watch notices it
            ray.get(recorder.block_ended.remote(number))

    searcher = BlockSearcher(next_block, _at_once(plan, cluster), more, given_up)

    def grow() -> None:
        """Let more trials start where nodes have joined."""
        nodes = tuple(node.total for node in look())
        searcher.most_at_once = _at_once(plan, replace(cluster, nodes=nodes))

    watch = _Watch(recorder, display, interruption, lost, None if cluster.is_local else grow)
    config = SweepConfig(
        recorder=name,
        cluster=cluster,
        storage=str(storage),
        working_tree=str(Path.cwd()),
        versions={} if cluster.is_local else own_versions(),
        variables=_variables(cluster),
        wait_seconds=wait_seconds,
        environments=environments,
        fit=fit,
    )
    tuner = tune.Tuner(
        BlockRunner,
        param_space={"sweep": config},
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            verbose=0,
            stop=_WhenOver(watch),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the ledger has everything
            failure_config=tune.FailureConfig(max_failures=_BLOCK_RESTARTS),
        ),
    )
    try:
        with display, watch:
            results = tuner.fit()
    except OSError as error:  # Tune keeps its own files beside the ledger
        if isinstance(error, ConnectionError):
            raise
        said = os.strerror(error.errno) if error.errno else first_line(error)
        watch.ended = watch.ended or Ended(trouble=said)
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if watch.ended is not None:
        return watch.ended
    labels = {trial.trial_id: f"{trial.label}, repeat {trial.repeat}" for trial in plan.trials}
    unrun = []
    for result in results:
        left, problem = _unrun(result, lambda number: ray.get(recorder.block_ended.remote(number)))
        unrun += [f"{labels[trial_id]}: {problem}" for trial_id in left if problem]
    try:
        ray.get(recorder.finish.remote())  # its errors occur again, and are reported, when the sweep is published
    except ray.exceptions.RayActorError as error:
        return replace(_without_recorder(error, lost), unrun=unrun)
    return Ended([] if watch.one_cause else unrun, one_cause=watch.one_cause)


def _variables(cluster: Cluster) -> dict[str, str]:
    """The workers' variables for this run: its name, and the driver's NCCL_ and GLOO_ variables, which Ray passes to no
    worker on another machine. On one machine gloo uses loopback unless these say otherwise.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith(("NCCL_", "GLOO_"))}
    return {RUN: uuid.uuid4().hex, **({"GLOO_SOCKET_IFNAME": "lo"} if cluster.is_local else {}), **own}


def _at_once(plan: Plan, cluster: Cluster) -> int:
    """How many trials may have a process, running or waiting: one for each part of a slot that exists or could come."""
    return max(1, (cluster.slots or 0) * plan.trials[0].slots_per_node)


def _recorder(
    name: str, plan: Plan, folder: AnyPath, space_yaml: str, storage: Path, wait_seconds: float, cluster: Cluster
) -> Any:
    """Start the recorder on the head node, which has the driver's files. It takes no CPU from a trial.

    Ray restarts it when it is killed, and repeats the calls that it had not answered.
    """
    options = {
        "name": name, "namespace": ACTOR_NAMESPACE, "num_cpus": 0, "resources": ON_HEAD, "max_concurrency": 1,
        "max_restarts": _RECORDER_RESTARTS, "max_task_retries": -1,
    }  # fmt: skip
    state = str(storage / "running.json")
    plan_file, space_file, pace_file = (storage / name for name in ("plan.json", "space.yaml", "pace.json"))
    plan_file.write_text(plan.model_dump_json(), encoding="utf-8")
    space_file.write_text(space_yaml, encoding="utf-8")
    pace = known_pace(plan, folder.parent.parent, elsewhere=not cluster.is_local)
    pace_file.write_text(pace.to_json(), encoding="utf-8")
    variables = mlflow_variables() | store_variables(folder)
    arguments = (plan_file, address(folder), space_file, *destination(), variables, state)
    return (
        ray.remote(Recorder)
        .options(**options)
        .remote(
            *arguments,
            wait_seconds=wait_seconds,
            autoscaler=cluster.autoscaler,
            slots=_at_once(plan, cluster),
            pace_file=pace_file,
        )
    )


class _Watch:
    """The thread that passes the recorder's news to the display, and the user's wish to stop to the recorder."""

    def __init__(
        self,
        recorder: Any,
        display: Display,
        interruption: Interruption,
        lost: Callable[[str], NoReturn],
        grow: Callable[[], None] | None,
    ) -> None:
        self.over = False  # no trial may continue
        self.one_cause = ""  # the failure that every leg ends with
        self.ended: Ended | None = None  # set where neither the trials' end nor the user ended the sweep
        self._head = str(ray.get_runtime_context().gcs_address)
        self._head_answered = time.monotonic()
        self._recorder, self._display, self._interruption = recorder, display, interruption
        self._lost, self._grow = lost, grow
        self._told = self._incarnation = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(_PATIENCE_SECONDS)

    def _run(self) -> None:
        draining = ended = False
        for number in itertools.count(1):
            if ended or self.over:
                return
            ended = self._end.wait(_SECONDS_BETWEEN_LOOKS)
            silence = self._silence_of_head()
            if silence > (_OWN_HEAD_PATIENCE_SECONDS if self._grow is None else _HEAD_PATIENCE_SECONDS):
                self._lost(self._head)
            if silence:
                continue  # without a head, calls of Ray block
            try:
                if self._grow is not None and number % _LOOKS_BETWEEN_COUNTS == 0 and not ended:
                    self._grow()
                self.one_cause = self.one_cause or self._display.progress.one_cause()
                if (self._interruption.requested or self.one_cause) and not draining:
                    ray.get(self._recorder.drain.remote(), timeout=_ANSWER_SECONDS)
                    draining = True
                    self._display.stop()
                patience = _PATIENCE_SECONDS if ended else _ANSWER_SECONDS
                news: News = ray.get(self._recorder.news.remote(self._told, self._incarnation), timeout=patience)
            except ray.exceptions.GetTimeoutError:
                continue  # the recorder is busy; its news comes with a later call
            except ray.exceptions.RayError as error:
                self.ended = None if ended else _without_recorder(error, self._lost)
                self.over = True
                return
            if news.incarnation != self._incarnation:
                self._incarnation, self._told = news.incarnation, 0
            self._told += len(news.events)
            self._display.update(news)
            if news.trouble:
                self.ended = Ended(trouble=news.trouble)
            self.over = (draining or self.ended is not None) and not news.num_active

    def _silence_of_head(self) -> float:
        """Seconds since the cluster's head last answered; 0 when it does."""
        now = time.monotonic()
        if not connection_problem(self._head):
            self._head_answered = now
        return now - self._head_answered


class _WhenOver(tune.Stopper):  # type: ignore[misc]
    """Stops Tune when the watch says so; Tune asks ten times a second. A pickled copy stops nothing."""

    def __init__(self, watch: _Watch | None = None) -> None:
        self._watch = watch

    def __reduce__(self) -> tuple[type[_WhenOver], tuple[()]]:
        return (_WhenOver, ())

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._watch is not None and self._watch.over


def _without_recorder(error: BaseException, lost: Callable[[str], NoReturn]) -> Ended:
    """How a sweep ends whose recorder died: alone, or with the head, which may die a little later."""
    head = str(ray.get_runtime_context().gcs_address)
    time.sleep(_HEAD_END_SECONDS)
    if connection_problem(head):
        lost(head)
    return Ended(recorder_died=_why_dead(error))


def _why_dead(error: BaseException) -> str:
    """Ray's reason for an actor's death; for one that could not be started, the actor's own error."""
    if "creation task" in str(error):
        return _reason(error).rstrip(".")
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _unrun(result: Any, left_of: Callable[[int], list[str]]) -> tuple[list[str], str]:
    """The ids of the trials that a block could not finish, and the reason given by Tune or by the block itself.

    `left_of` ends a block whose trial process was killed, and returns the ids of the trials left.
    """
    if result.error is not None:
        return left_of(result.config["block"]), _reason(result.error)
    metrics = result.metrics or {}
    return list(metrics.get("unrun", [])), without_secrets(str(metrics.get("problem", "")))


def _reason(error: BaseException) -> str:
    """The message of an error from a trial: the exception's own text, which comes below Ray's traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    start = next((i for i in range(len(lines) - 1, -1, -1) if not lines[i].startswith(" ")), 0)
    return without_secrets(" ".join(line.strip() for line in lines[start:]))[:500] or type(error).__name__
