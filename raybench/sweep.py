"""The sweep, from a space to an answer.

    python -m raybench.sweep space=cnns [sweep=NAME] [key=value ...]

The driver: makes the plan, starts the recorder, lets Ray Tune schedule the trials (Tune decides nothing else),
and at the end hands the ledger to the analysis. The same command again runs what the ledger lacks.
"""

from __future__ import annotations

import json
import shlex
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.markup import escape

from raybench.analysis import analyse, answer_in_words
from raybench.analysis.terminal import print_analysis
from raybench.cli import parse_arguments, run_command
from raybench.errors import NothingMeasured, UserError
from raybench.ledger import Ledger
from raybench.lock import sweep_lock
from raybench.plan import Plan, plan_from_arguments
from raybench.space import Space

if TYPE_CHECKING:
    from raybench.cluster import Cluster

USAGE = """
usage: python -m raybench.sweep space=NAME|PATH [size=NAME] [sweep=NAME] [results=FOLDER] [key=value ...] [--yes]

Train every setting of a space with each of its arms, on Ray, and say what DeepSpeed does for it.

  space=cnns                     search_spaces/cnns.yaml, or the one that ships with raybench
  space=path/to/mine.yaml        a file of your own
  size=small                     one of the sizes that the space has: small is for 2 CPU cores
  sweep=friday                   names the sweep; the same name again resumes it. Without it the name is made
                                 from the space's content, so that the same command again resumes it too
  results=mlruns/ledger          the ledger is written to <results>/<space>/<sweep>
  setting.batch_size=[64,128]    any other key=value overrides that field of the space
  --yes                          a plan of more than 10,000 legs is meant

Runs on the Ray cluster of RAY_ADDRESS or of this node, else on this machine. MLflow: MLFLOW_TRACKING_URI, else
its own default. Exit code 0: measured; 1: nothing could be measured; 2: bad input.

examples:
  python -m raybench.sweep space=quickstart
  python -m raybench.sweep space=cnns size=small
"""


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    plan: Plan
    space: Space
    folder: Path  # of this sweep's ledger
    command: str


def main(argv: list[str]) -> int:
    """Run a sweep. Returns 0; raises UserError for bad input and NothingMeasured."""
    arguments = parse_arguments(argv, usage=USAGE, flags={"yes"})
    values = dict(arguments.values)
    results = Path(values.pop("results", "mlruns/ledger"))
    plan, space = plan_from_arguments(values, large="yes" in arguments.flags)
    folder = (results / plan.space / plan.sweep).absolute()
    command = "python -m raybench.sweep " + " ".join(shlex.quote(token) for token in argv)
    run_sweep(Request(plan, space, folder, command), Console())
    return 0


def run_sweep(request: Request, console: Console) -> None:
    """Run what the ledger lacks of a plan, then print the answer. Raises UserError and NothingMeasured."""
    unrun, fresh = measure(request, console)
    _finish(request, console, unrun, fresh=fresh)


def measure(request: Request, console: Console) -> tuple[list[str], bool]:
    """Run what the ledger lacks of a plan. Returns what could not be run, a line a trial, and whether any leg was."""
    plan = request.plan
    if request.folder.exists():
        with sweep_lock(request.folder):
            for line in Ledger(request.folder).set_aside():
                console.print(f"[yellow]damaged[/]: {escape(line)}; its legs run again", soft_wrap=True)
    missing = missing_legs(plan, Ledger(request.folder))
    total = len(plan.legs())
    console.print(f"raybench: sweep [bold]{plan.sweep}[/] of space [bold]{plan.space}[/]: {_counts(plan)}")
    if missing < total:
        console.print(f"resumed: {total - missing} of {total} legs are in the ledger; {missing} to run")
    return (_run_missing(request, missing, console) if missing else []), missing > 0


def _counts(plan: Plan) -> str:
    settings = len({trial.setting_id for trial in plan.trials})
    arms = len({leg.arm_name for _, leg in plan.legs()})
    return f"{settings} settings x {arms} arms, {len(plan.trials)} trials, {len(plan.legs())} legs"


def missing_legs(plan: Plan, ledger: Ledger) -> int:
    """How many of the plan's legs have no outcome in the ledger.

    Raises UserError when the ledger holds one of them measured differently: under another protocol, seed,
    isolation, baseline or arm configuration.
    """
    there = {
        (row["setting_id"], row["repeat"], row["arm"], row["round"]): (row["leg_id"], row["is_baseline"])
        for row in ledger.rows(["setting_id", "repeat", "arm", "round", "leg_id", "is_baseline"])
    }
    missing = 0
    for trial, leg in plan.legs():
        found = there.get((trial.setting_id, trial.repeat, leg.arm_name, leg.round))
        missing += found is None
        if found is not None and found != (leg.leg_id, leg.is_baseline):
            raise UserError(
                f"sweep={plan.sweep}: {ledger.folder} holds {trial.label!r}, arm {leg.arm_name!r}, with another "
                f"protocol, seed, isolation, baseline or arm configuration than this space has; name this one anew "
                f"with sweep=NAME"
            )
    return missing


def _run_missing(request: Request, missing: int, console: Console) -> list[str]:
    """Run the missing legs on Ray. Returns what could not be run, a line a trial."""
    console.print("starting Ray ...")
    from raybench import cluster as clusters

    try:
        cluster = clusters.connect()
        clusters.check_fits(request.plan, cluster)
        console.print(f"on {cluster.describe()}; logs of all processes: {clusters.log_folder()}", soft_wrap=True)
        with sweep_lock(request.folder):
            return _run_trials(request, missing, cluster, console)
    finally:
        clusters.disconnect()


def _run_trials(request: Request, missing: int, cluster: Cluster, console: Console) -> list[str]:
    """Start the recorder, let Tune run the trials, and tell what happens meanwhile."""
    import ray
    from ray import tune

    from raybench.recorder import ACTOR_NAMESPACE, Recorder
    from raybench.trial import run_trial

    plan = request.plan
    storage = request.folder.parent / f".ray-{plan.sweep}"
    on_head = {"node:__internal_head__": 0.0001}
    name = f"recorder-{plan.space}-{plan.sweep}"
    recorder = (
        ray.remote(Recorder)
        .options(name=name, namespace=ACTOR_NAMESPACE, num_cpus=0, resources=on_head, max_concurrency=1)
        .remote(plan.model_dump_json(), str(request.folder), space_yaml(request), *_tracking())
    )
    ray.get(recorder.remaining.remote(plan.trials[0].trial_id))
    config = {
        "trial_id": tune.grid_search([trial.trial_id for trial in plan.trials]),
        "recorder": name,
        "cluster": cluster,
        "storage": str(storage),
        "working_tree": str(Path.cwd()),
    }
    tuner = tune.Tuner(
        tune.with_resources(run_trial, tune.PlacementGroupFactory([on_head])),
        param_space=config,
        tune_config=tune.TuneConfig(max_concurrent_trials=cluster.slots or 1, num_samples=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(storage), verbose=0),
    )
    stop = threading.Event()
    teller = threading.Thread(target=_tell, args=(recorder, stop, console, missing), daemon=True)
    teller.start()
    try:
        results = tuner.fit()
    finally:
        stop.set()
        teller.join()
        shutil.rmtree(storage, ignore_errors=True)
    labels = {trial.trial_id: f"{trial.label}, repeat {trial.repeat}" for trial in plan.trials}
    unrun = [f"{labels[r.config['trial_id']]}: {_reason(r.error)}" for r in results if r.error is not None]
    _write_mlflow(request, recorder, console)
    return unrun


def space_yaml(request: Request) -> str:
    """The resolved space as a file that `space=` takes, with the command that asked for it."""
    head = f"# Written by raybench; the space as it was run, overrides merged in.\n# command: {request.command}\n"
    return head + yaml.safe_dump(request.space.model_dump(mode="json"), sort_keys=False)


def _tracking() -> tuple[str, str]:
    """MLflow's address and where a local store keeps its artifacts."""
    from raybench.tracking import default_tracking_uri

    return default_tracking_uri(), str(Path("mlruns/artifacts").absolute())


def _tell(recorder: Any, stop: threading.Event, console: Console, missing: int) -> None:
    """Print a line for each leg as it ends, with the time left after each trial, until told to stop."""
    import ray

    begun = time.monotonic()
    told = 0
    repeats: set[tuple[str, int]] = set()
    last = False
    while not last:
        last = stop.wait(1.0)
        try:
            events, _ = ray.get(recorder.news.remote(told), timeout=30)
        except ray.exceptions.RayError:
            return  # the recorder is gone; what matters is said by whoever waits for it
        for event in events:
            trial = (event["setting"], event["repeat"])
            if told and trial not in repeats:
                left = (time.monotonic() - begun) / told * (missing - told)
                console.print(f"[dim]about {_duration(left)} left[/]")
            repeats.add(trial)
            told += 1
            console.print(escape(f"[{told:>{len(str(missing))}}/{missing}] ") + _leg_line(event), soft_wrap=True)


def _leg_line(event: dict[str, Any]) -> str:
    what = f"{event['setting']} | {event['arm']} | repeat {event['repeat']} round {event['round']}"
    if "failure" in event:
        return f"{escape(what)}: [red]failed[/]: {escape(event['failure'])}"
    return f"{escape(what)}: {1e3 * event['mean_step_seconds']:.2f} ms a step"


def _duration(seconds: float) -> str:
    """Seconds in words: `50 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _reason(error: BaseException) -> str:
    """The last words of an error that came out of a trial: those of the exception, below Ray's traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    start = next((i for i in range(len(lines) - 1, -1, -1) if not lines[i].startswith(" ")), 0)
    return " ".join(line.strip() for line in lines[start:])[:500] or type(error).__name__


def _write_mlflow(request: Request, recorder: Any, console: Console) -> None:
    """Bring MLflow up to date, speedups included; its errors are told, and end nothing."""
    import ray

    summary, artifacts = mlflow_summary(request.folder)
    errors = ray.get(recorder.finish.remote(summary, artifacts))
    for error in dict.fromkeys(errors):
        console.print(f"[yellow]MLflow lacks something of this sweep[/]: {escape(error)}", soft_wrap=True)
    if errors:
        console.print(f"when it is back: python -m raybench.sync {request.folder}", soft_wrap=True)


def mlflow_summary(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a sweep's parent run carries: speedups as metrics, the answer in words, the analysis and the space."""
    if not Ledger(folder).leg_ids():
        return {"metrics": {}, "note": "no leg has an outcome"}, {}
    analysis = analyse([folder])
    report = analysis.to_json()
    metrics = {
        f"speedup/{c['arm']}/{c['setting']}": c["speedup"] for c in report["comparisons"] if c["speedup"] is not None
    }
    metrics |= {
        f"speedup_geometric_mean/{a['arm']}": a["geometric_mean"]
        for a in report["arms"]
        if a["geometric_mean"] is not None
    }
    note = answer_in_words(analysis)
    artifacts = {"analysis.json": json.dumps(report, indent=1), "answer.md": note + "\n"}
    if (folder / "_space.yaml").exists():
        artifacts["_space.yaml"] = (folder / "_space.yaml").read_text(encoding="utf-8")
    return {"metrics": metrics, "note": note}, artifacts


def _finish(request: Request, console: Console, unrun: list[str], *, fresh: bool) -> None:
    """The end of a sweep: the answer in the terminal, and a report where legs were run.

    Raises NothingMeasured where no leg was measured.
    """
    ledger = Ledger(request.folder)
    ledger.compact()
    rows = ledger.rows(["leg_id", "status"])
    for line in unrun:
        console.print(f"[red]not run[/]: {escape(line)}", soft_wrap=True)
    if unrun:
        console.print("the same command again runs what is missing", soft_wrap=True)
    if rows:
        console.print()
        analysis = analyse([request.folder])
        print_analysis(analysis, console)
        if fresh:
            from raybench.report import write_report

            page = write_report(analysis, [request.folder], request.folder / "_report")[0]
            console.print(f"report: {page}", soft_wrap=True)
        console.print(f"ledger: {request.folder}", soft_wrap=True)
        console.print(f"again:  python -m raybench.analysis {shlex.quote(str(request.folder))}", soft_wrap=True)
    if not any(row["status"] == "ok" for row in rows):
        raise NothingMeasured(f"nothing could be measured: {len(rows)} legs failed, {len(unrun)} trials could not run")


if __name__ == "__main__":
    from raybench.sweep import main as _main

    run_command(_main)
