"""The sweep, from a space to an answer.

    python -m raybench.sweep space=cnns [sweep=NAME] [key=value ...]

The driver: makes the plan, starts the recorder, lets Ray Tune schedule the trials (Tune decides nothing else),
and at the end hands the ledger to the analysis. The same command again runs what the ledger lacks.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("sweep")

import contextlib
import importlib
import math
import shlex
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.markup import escape

from raybench.analysis import analyse
from raybench.analysis.stopping import Stopping
from raybench.cli import parse_arguments, run_command
from raybench.cluster.placement import check_data, check_fits
from raybench.cluster.surroundings import check_surroundings
from raybench.declare.plan import Plan, plan_from_arguments
from raybench.declare.space import Space
from raybench.driver.display import Display, Level
from raybench.driver.interruption import StoppedNow, interruptible
from raybench.driver.messages import EVENT_COLUMNS, LegEvent, leg_event
from raybench.driver.own_code import changed_since
from raybench.driver.progress import Progress
from raybench.errors import Interrupted, NothingMeasured, StorageError, UserError
from raybench.ledger.dataset import Ledger, held_legs
from raybench.ledger.lock import sweep_lock
from raybench.ledger.outcome import FAILURE_KINDS
from raybench.redaction import without_secrets
from raybench.show import answer
from raybench.show.terminal import print_document
from raybench.show.units import count
from raybench.stores.storage import AnyPath, hidden_folder, to_path, write_problem
from raybench.text import suggest
from raybench.tracking.publishing import destination, publish

if TYPE_CHECKING:
    from raybench.driver.schedule import Ended


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    plan: Plan
    space: Space
    folder: AnyPath  # of this sweep's ledger
    command: str
    level: Level = "normal"  # how much is told while it runs
    wait_seconds: float = 1200.0  # for nodes that are not there
    retry: frozenset[str] = frozenset()  # kinds of failures whose legs are to run again
    full: bool = False  # at the end all that stands behind the answer, too


def main(argv: list[str]) -> int:
    """Run a sweep. Returns 0; raises UserError for bad input, NothingMeasured, and Interrupted."""
    arguments = parse_arguments("sweep", argv)
    level: Level = "quiet" if "quiet" in arguments.flags else "verbose" if "verbose" in arguments.flags else "normal"
    values = dict(arguments.values)
    results = to_path(values.pop("results", "mlruns/ledger"))
    wait_seconds = seconds_to_wait(values.pop("wait", "20"))
    retry = _kinds(values.pop("retry", ""))
    plan, space = plan_from_arguments(values, large="yes" in arguments.flags)
    folder = (results / plan.space / plan.sweep).absolute()
    again = [token for token in argv if not token.startswith("retry=")]  # on resuming, what failed is an outcome
    command = without_secrets("python -m raybench.sweep " + " ".join(shlex.quote(token) for token in again))
    run_sweep(Request(plan, space, folder, command, level, wait_seconds, retry, "full" in arguments.flags), Console())
    return 0


def seconds_to_wait(text: str) -> float:
    """The seconds of `wait=MINUTES`. Raises UserError."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= 60 * 24 * 30:
        raise UserError(f"wait={text}: minutes to wait for nodes that are not there, 0 or more, as in wait=20")
    return 60 * minutes


def _kinds(word: str) -> frozenset[str]:
    """The kinds of failures that `retry=` names. Raises UserError."""
    if word in ("", "failed"):
        return frozenset(FAILURE_KINDS if word else ())
    if word not in FAILURE_KINDS:
        raise UserError(f"retry={word}: {suggest(word, ['failed', *FAILURE_KINDS])}")
    return frozenset([word])


def run_sweep(request: Request, console: Console) -> None:
    """Run what the ledger lacks of a plan, then print the answer.

    Raises UserError, NothingMeasured, and Interrupted where the user stopped it, trials could not be run, its recorder
    died, or the store went.
    """
    unrun, fresh = measure(request, console)
    try:
        _finish(request, console, unrun, fresh=fresh)
    except StorageError as error:
        told = f"{error}; every leg that ran is in the ledger; the same command ends it: {request.command}"
        raise Interrupted(told, 1) from None


def measure(request: Request, console: Console) -> tuple[list[str], bool]:
    """Run what the ledger lacks of a plan. Returns what could not be run, a line a trial, and whether any leg was.

    Raises as `run_sweep` does.
    """
    plan = request.plan
    check_surroundings()
    if problem := write_problem(request.folder.parent.parent):
        raise UserError(f"results: {problem}")
    stopping = stopping_of(request)
    if request.folder.exists():
        with sweep_lock(request.folder):
            for line in Ledger(request.folder).set_aside():
                console.print(f"[yellow]damaged[/]: {escape(line)}; its legs run again", soft_wrap=True)
            _merge(request.folder)
            shutil.rmtree(hidden_folder(request.folder), ignore_errors=True)  # of a driver that was killed
            if request.retry:
                outcomes_there(plan, Ledger(request.folder))  # raises where another plan was measured there
                retried = withdraw_failed(plan, Ledger(request.folder), request.retry)
                kept = "; the old rows are kept in _aside" if retried else ""
                console.print(f"retried: {retried} failed {'leg runs' if retried == 1 else 'legs run'} again{kept}")
    there = outcomes_there(plan, Ledger(request.folder))
    total = len(plan.legs())
    fresh = _wanted(plan, stopping, _leg_ids(there))
    if request.level != "quiet":
        console.print(f"raybench: sweep [bold]{plan.sweep}[/] of space [bold]{plan.space}[/]: {_counts(plan)}")
        if there:
            left = total - len(there)
            more = f"up to {left} to run" if fresh else "all is settled"
            more = f"{left} to run" if stopping is None or not left else more
            console.print(f"resumed: {len(there)} of {total} legs are in the ledger; {more}")
            for line in _cautions(plan, Ledger(request.folder)):
                console.print(f"[yellow]note[/]: {escape(line)}", soft_wrap=True)
    return (_run_missing(request, there, console) if fresh else []), fresh


def _cautions(plan: Plan, ledger: Ledger) -> Iterator[str]:
    """What someone who gives the same command again may not expect of the legs that are there."""
    rows = ledger.rows(["arm", "started_at", "status"])
    began: dict[str, float] = {}
    for row in rows:
        began[row["arm"]] = min(began.get(row["arm"], math.inf), row["started_at"].timestamp())
    if changed := changed_since(plan, began):
        told = ", ".join(changed) + (" is" if len(changed) == 1 else " are")
        yield f"{told} newer than legs measured with it, which stay as they are; sweep=NAME measures anew"
    if failed := sum(row["status"] == "failed" for row in rows):
        yield f"{count(failed, 'leg')} failed earlier, and failed legs do not run again without retry=failed"


def withdraw_failed(plan: Plan, ledger: Ledger, kinds: frozenset[str]) -> int:
    """Withdraw the plan's legs that failed in one of these ways, so that they run again. Returns how many those are."""
    rows = ledger.rows(["trial_id", "leg_id", "failure_kind"])
    failed: dict[str, set[str]] = {}
    for row in rows:
        if row["failure_kind"] in kinds:
            failed.setdefault(row["trial_id"], set()).add(row["leg_id"])
    chosen = [failed[trial.trial_id] for trial in plan.trials if trial.trial_id in failed]
    return sum(len(ledger.withdraw(leg_ids, "tried again")) for leg_ids in chosen)


def _counts(plan: Plan) -> str:
    settings = len({trial.setting_id for trial in plan.trials})
    arms = len({leg.arm_name for _, leg in plan.legs()})
    profiled = sum(leg.profiled for _, leg in plan.legs())
    more = f", {profiled} of them profiled" if profiled else ""
    trials, legs = count(len(plan.trials), "trial"), count(len(plan.legs()), "leg")
    return f"{count(settings, 'setting')} x {count(arms, 'arm')}, {trials}, {legs}{more}"


def outcomes_there(plan: Plan, ledger: Ledger) -> list[LegEvent]:
    """The legs of the plan that have an outcome in the ledger, an event each.

    Raises UserError when the ledger holds one of them measured differently: under another protocol, seed,
    isolation, baseline or arm configuration.
    """
    rows = ledger.rows(EVENT_COLUMNS)
    return [leg_event(row) for row in held_legs(plan, ledger.folder, rows, "start a new sweep with sweep=NAME")]


def _run_missing(request: Request, there: list[LegEvent], console: Console) -> list[str]:
    """Run the missing legs on Ray. Returns what could not be run, a line a trial.

    Raises Interrupted, and NothingMeasured where leg after leg failed of one cause.
    """

    def tell(line: str) -> None:
        if request.level != "quiet":
            console.print(line, markup=False, soft_wrap=True)

    tell("starting Ray ...")
    from raybench.cluster import connection as clusters
    from raybench.cluster.environments import make_environments
    from raybench.cluster.nodes import check_nodes
    from raybench.driver.own_code import check_own_code
    from raybench.driver.schedule import run_trials

    plan, stopped = request.plan, 0
    ended: Ended | None = None
    try:
        check_own_code(plan)
        cluster = clusters.connect()
        check_fits(plan, cluster)
        if cluster.is_local:
            check_data(plan)
        else:
            check_nodes(plan, cluster, hidden_folder(request.folder))
        tell(f"on {cluster.describe()}; logs of all processes: {clusters.log_folder()}")
        missing = {leg.leg_id for _, leg in plan.legs()} - _leg_ids(there)
        environments = make_environments(plan, missing, cluster, Path.cwd(), tell)
        progress = Progress(plan)
        for event in there:
            progress.add(event)
        display = Display(progress, console, request.level)
        with sweep_lock(request.folder), interruptible() as interruption:
            try:
                text = space_yaml(request)
                ended = run_trials(
                    plan, request.folder, text, cluster, display, interruption, request.wait_seconds,
                    stopping=stopping_of(request), environments=environments,
                )  # fmt: skip
                stopped = 130 if interruption.requested else 0
                if not stopped:
                    _import_meanwhile("raybench.tracking.mlflow_runs", "raybench.show.report_files")
            finally:
                clusters.disconnect()
            if not ended.trouble and not ended.recorder_died:
                _merge(request.folder)
    except StoppedNow as stop:
        stopped = stop.exit_code
    finally:
        clusters.disconnect()
    if ended is not None:
        _check_ended(request, ended)
    if stopped and _wanted(plan, stopping_of(request), _leg_ids(outcomes_there(plan, Ledger(request.folder)))):
        raise Interrupted(f"stopped; {_how_to_go_on(request)}", stopped)
    return [] if ended is None else ended.unrun


def _merge(folder: AnyPath) -> None:
    """Merge the ledger's many small files, under its lock. Where that fails the ledger is as good as before; what is
    wrong with its disk or store is told by whoever needs it next."""
    with contextlib.suppress(OSError, StorageError):
        Ledger(folder).compact()


def _import_meanwhile(*modules: str) -> None:
    """Begin to import what is needed next, while this process waits for others; what fails is told where it is used."""

    def run() -> None:
        with contextlib.suppress(Exception):
            for module in modules:
                importlib.import_module(module)

    threading.Thread(target=run, name="imports").start()  # no daemon: an exit in the middle of an import can crash


def _check_ended(request: Request, ended: Ended) -> None:
    """Raise Interrupted, and NothingMeasured where leg after leg failed of one cause, where trials ended before all
    was run."""
    if ended.trouble:
        where = f" at {request.folder}; make room there" if isinstance(request.folder, Path) else ""
        raise Interrupted(f"the ledger cannot be written: {ended.trouble}{where}; {_how_to_go_on(request)}", 1)
    if ended.one_cause:
        told = f"every leg failed for the same reason, and the rest was not started: {ended.one_cause}"
        raise NothingMeasured(f"{told}; correct the cause first; {_how_to_go_on(request)}")
    if ended.recorder_died:
        raise Interrupted(f"the recorder died ({ended.recorder_died}); {_how_to_go_on(request)}", 1)


def stopping_of(request: Request) -> Stopping | None:
    """The looks of a sweep that stops when settled; None where its number of trials is fixed."""
    return Stopping.of(yaml.safe_dump(request.space.model_dump(mode="json")), request.folder)


def _leg_ids(events: list[LegEvent]) -> set[str]:
    return {event.leg_id for event in events}


def _wanted(plan: Plan, stopping: Stopping | None, there: set[str]) -> bool:
    """Whether there is something to run: legs that the ledger lacks, of trials that are wanted, or a look to take."""
    settings = dict.fromkeys(trial.setting_id for trial in plan.trials)
    due = stopping.due(settings) if stopping is not None else None
    if stopping is not None and stopping.wanted(settings):
        return True
    return any(
        leg.leg_id not in there for trial, leg in plan.legs() if due is None or trial.repeat < due[trial.setting_id]
    )


def _how_to_go_on(request: Request) -> str:
    again = f"the same command runs the others: {request.command}"
    try:
        done = len(outcomes_there(request.plan, Ledger(request.folder)))
    except StorageError:  # it is told already why the sweep ends
        return f"every leg that was acknowledged is in the ledger {request.folder}; {again}"
    return f"{done} of {len(request.plan.legs())} legs are in the ledger {request.folder}; {again}"


def space_yaml(request: Request) -> str:
    """The resolved space as a file that `space=` takes, with the command that asked for it."""
    head = f"# Written by raybench; the space as it was run, overrides merged in.\n# command: {request.command}\n"
    return head + yaml.safe_dump(request.space.model_dump(mode="json"), sort_keys=False)


def _finish(request: Request, console: Console, unrun: list[str], *, fresh: bool) -> None:
    """The end of a sweep: the answer in the terminal; where legs were run, MLflow brought up to date and a report.

    Raises NothingMeasured where no leg was measured, and Interrupted where some are missing.
    """
    rows = Ledger(request.folder).rows(["leg_id", "status"])
    for line in unrun:
        console.print(f"[red]not run[/]: {escape(line)}", soft_wrap=True)
    if rows:
        page = _publish(request, console) if fresh else None
        document = answer.build(analyse([request.folder]))
        console.print()
        print_document(document, console, full=request.full, quiet=request.level == "quiet")
        if page is not None:
            console.print(f"report: {page}", soft_wrap=True)
        console.print(f"more:   python -m raybench.analysis {shlex.quote(str(request.folder))} --full", soft_wrap=True)
    if not any(row["status"] == "ok" for row in rows):
        raise NothingMeasured(f"nothing could be measured: {len(rows)} legs failed, {len(unrun)} trials could not run")
    check_complete(unrun, len(request.plan.trials), request.command)


def check_complete(unrun: list[str], num_trials: int, command: str) -> None:
    """Raise Interrupted, for exit code 1, where there are trials that could not be run to their end."""
    if unrun:
        told = f"{len(unrun)} of {num_trials} trials could not be run to their end; what was measured is kept"
        raise Interrupted(f"{told}, and the same command again runs what is missing: {command}", 1)


def _publish(request: Request, console: Console) -> AnyPath | None:
    """Bring MLflow up to date and write the report, and return its page; MLflow's trouble is told, and ends nothing."""
    published = publish(request.folder, *destination())
    if published.error:
        console.print(f"[yellow]MLflow lacks something of this sweep[/]: {escape(published.error)}", soft_wrap=True)
        again = f"python -m raybench.sync {shlex.quote(str(request.folder))}"
        console.print(f"when it is back: {again}", soft_wrap=True)
    return published.report


if __name__ == "__main__":
    from raybench.sweep import main as _main

    run_command(_main)
