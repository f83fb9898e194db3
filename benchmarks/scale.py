"""How raybench grows with the number of trials: the plan, the driver, the recorder, the ledger and its analysis.

    python benchmarks/scale.py [trials=10000] [nodes=100] [folder=mlruns/scale]

Sizes are 100, 1,000, 10,000 ... up to `trials`, each measured in processes of its own, so that memory is that size's.
A trial is one repeat of a setting with two arms and one round. What is real: the plan, Ray, the driver with Ray Tune,
an actor a trial, the recorder, every row's file flushed to disk, compaction, analysis. What is not: `nodes` nodes are
slots of one machine, and a group of legs is handed to the recorder at once instead of being trained for minutes; so
the driver and the recorder are as busy as they can be, which no real sweep comes near. MLflow is measured apart, for
500 legs: a sweep writes to it while it trains.

Prints a table, and for each column the exponent of its growth (least squares over the logarithms; 1 is linear).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from raybench.cli import parse_script, run_command
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError

SPACE = """
setting: {{model: lenet, dataset: synthetic, batch_size: [{batches}], workers: 2}}
arms:
  ddp: {{engine: torch}}
  zero1: {{engine: deepspeed, config: {{zero_optimization: {{stage: 1}}}}}}
protocol: {{warmup_steps: 20, steps: 100, rounds: 1}}
repeats: {repeats}
"""
REPEATS = 20
MLFLOW_LEGS = 500
SIZES = (100, 1_000, 10_000, 100_000)
COLUMNS = {
    "plan_seconds": "plan built, s",
    "plan_bytes_a_leg": "plan, bytes of memory a leg",
    "start_seconds": "Ray's processes started, s",
    "trials_seconds": "then all trials, s",
    "driver_ms_a_trial": "driver, CPU ms a trial",
    "driver_gib": "driver, GiB",
    "recorder_ms_a_leg": "recorder, CPU ms a leg",
    "recorder_gib": "recorder, GiB",
    "resume_seconds": "legs of the ledger found, s",
    "compaction_seconds": "compaction, s",
    "compaction_gib": "compaction, GiB",
    "analysis_seconds": "analysis, s",
    "analysis_gib": "analysis, GiB",
}
GROWING = [name for name in COLUMNS if name.endswith("_seconds") and name != "start_seconds"]


def make_plan(num_trials: int) -> Plan:
    """A plan of so many trials (a multiple of 20, or fewer than 20)."""
    repeats = min(REPEATS, num_trials)
    batches = ", ".join(str(2 * number) for number in range(1, num_trials // repeats + 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scale.yaml"
        path.write_text(SPACE.format(batches=batches, repeats=repeats))
        return build_plan(*load_space(str(path), large=True), sweep=f"t{num_trials}")


def measure_plan(num_trials: int, _nodes: int, _folder: Path) -> dict[str, float]:
    """What a plan costs: time and memory."""
    make_plan(1)
    before, begun = _resident_bytes(os.getpid()), time.perf_counter()
    plan = make_plan(num_trials)
    seconds = time.perf_counter() - begun
    return {
        "plan_seconds": seconds,
        "plan_bytes_a_leg": (_resident_bytes(os.getpid()) - before) / len(plan.legs()),
    }


def hand_over(block: Any, name: str, sweep: Any, _node_ids: tuple[str, ...]) -> str:
    """In the place of `raybench.driver.trial.fit_torch`: every leg of a group has its outcome at once."""
    import ray

    from raybench.cluster.connection import ACTOR_NAMESPACE
    from raybench.machine.places import RankPlace, RankReport

    recorder = ray.get_actor(sweep.recorder, namespace=ACTOR_NAMESPACE)
    node = f"node{int(block.first.trial_id, 16) % 100}"
    reports = [RankReport(RankPlace(node), "0")] * block.first.setting.workers
    wanted = ray.get(recorder.group_placed.remote(block.number, name, reports))
    for number, leg_id in enumerate(wanted):
        ray.get(recorder.begin.remote(name, leg_id, node))
        ray.get(recorder.record.remote(name, leg_id, made_up(int(leg_id, 16) % 2**32 + number)))
    return ""


def made_up(seed: int) -> Any:
    """A leg of a hundred steps of about 10 ms."""
    from raybench.ledger.outcome import Measurement

    steps = np.random.default_rng(seed).normal(0.01, 0.0003, 120)
    shares = {"data": 0.05, "forward": 0.3, "backward": 0.5, "optimizer": 0.1}
    parts = {f"{part}_seconds": (share * steps).tolist() for part, share in shares.items()}
    return Measurement(
        step_seconds=steps.tolist(), warmup_steps=20, samples_per_step=32, peak_device_bytes=None,
        peak_host_bytes=2**30, setup_seconds=0.5, train_seconds=float(steps.sum()), eval_seconds=0.0,
        first_loss=2.3, final_loss=1.0, step_losses=steps.tolist(),
        facts={"optimizer": {"class": "AdamW", "lr": 0.001}}, environment={"cpu": "made up"},
        started_at=time.time(), **parts,
    )  # fmt: skip


def measure_sweep(num_trials: int, nodes: int, folder: Path) -> dict[str, float]:
    """The sweep on a Ray of its own: driver and recorder. It starts with as many processes as there are nodes."""
    import raybench.cluster.connection  # noqa: F401, I001
    import ray
    from rich.console import Console

    from raybench.driver.display import Display
    from raybench.driver.interruption import interruptible
    from raybench.cluster.placement import SLOT, Cluster
    from raybench.driver.progress import Progress
    from raybench.driver.schedule import run_trials
    from raybench.ledger.dataset import Ledger

    # MLflow is measured apart: its first refusal makes the recorder leave it alone until the end.
    os.environ |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # as in a sweep: Tune prints nothing
    # Ray starts a process for each CPU in advance otherwise, as many at a time as there are CPUs.
    os.environ |= {"RAY_prestart_worker_first_driver": "0", "RAY_worker_maximum_startup_concurrency": "4"}
    plan = make_plan(num_trials)
    ray.init(
        address="local", num_cpus=2 * nodes, resources={SLOT: nodes}, include_dashboard=False, log_to_driver=False,
        logging_level="error",
    )  # fmt: skip
    try:
        cluster = Cluster(tuple({"CPU": 2.0, SLOT: 1.0} for _ in range(nodes)), is_local=True)
        with (
            Path(os.devnull).open("w") as nowhere,
            interruptible() as interruption,
            _watched("ray::Recorder") as recorder,
        ):
            display = Display(Progress(plan), Console(file=nowhere), "normal")
            begun, used = time.time(), time.process_time()
            ended = run_trials(plan, folder / plan.sweep, "", cluster, display, interruption, fit=hand_over)
            over, driver_seconds = time.time(), time.process_time() - used
    finally:
        ray.shutdown()
    assert not ended.unrun, ended.unrun[:3]
    first = min(row["started_at"].timestamp() for row in Ledger(folder / plan.sweep).rows(["started_at"]))
    return {
        "start_seconds": first - begun,
        "trials_seconds": over - first,
        "driver_ms_a_trial": 1e3 * driver_seconds / num_trials,
        "driver_gib": _peak_gib(),
        "recorder_ms_a_leg": 1e3 * recorder["seconds"] / len(plan.legs()),
        "recorder_gib": recorder["gib"],
    }


@contextmanager
def _watched(title: str) -> Iterator[dict[str, float]]:
    """The latest CPU seconds and peak memory of the one process of this title below this one."""
    import psutil

    seen = {"seconds": 0.0, "gib": 0.0}
    over = threading.Event()

    def watch() -> None:
        process = None
        while not over.wait(0.5):
            try:
                if process is None:
                    children = psutil.Process().children(recursive=True)
                    process = next((one for one in children if " ".join(one.cmdline()).startswith(title)), None)
                if process is not None:
                    used = process.cpu_times()
                    seen["seconds"] = used.user + used.system
                    seen["gib"] = max(seen["gib"], process.memory_info().rss / 2**30)
            except psutil.Error:
                process = None

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join()


def measure_resume(num_trials: int, _nodes: int, folder: Path) -> dict[str, float]:
    """What is there, as a resumed sweep asks first."""
    from raybench.ledger.dataset import Ledger

    return {"resume_seconds": _seconds(lambda: Ledger(folder / f"t{num_trials}").leg_ids())}


def measure_compaction(num_trials: int, _nodes: int, folder: Path) -> dict[str, float]:
    """All files of single legs merged."""
    from raybench.ledger.dataset import Ledger

    seconds = _seconds(lambda: Ledger(folder / f"t{num_trials}").compact())
    return {"compaction_seconds": seconds, "compaction_gib": _peak_gib()}


def measure_analysis(num_trials: int, _nodes: int, folder: Path) -> dict[str, float]:
    """From the ledger to verdicts."""
    from raybench.analysis import analyse

    seconds = _seconds(lambda: analyse([folder / f"t{num_trials}"]))
    return {"analysis_seconds": seconds, "analysis_gib": _peak_gib()}


def measure_mlflow(_trials: int, _nodes: int, folder: Path) -> dict[str, float]:
    """Seconds a leg to write to MLflow (SQLite)."""
    from raybench.ledger.columns import build_row
    from raybench.tracking.mlflow_runs import Tracker

    plan = make_plan(REPEATS * -(-MLFLOW_LEGS // (2 * REPEATS)))
    rows = [build_row("s", "scale", trial, leg, made_up(0)) for trial, leg in plan.legs()]
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "scale", "s")
    tracker.log_rows(rows[:20])
    return {"mlflow_ms_a_leg": 1e3 * _seconds(lambda: tracker.log_rows(rows)) / (len(rows) - 20)}


PARTS = {
    part.__name__.removeprefix("measure_"): part
    for part in (measure_plan, measure_sweep, measure_resume, measure_compaction, measure_analysis, measure_mlflow)
}


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def in_a_process(part: str, num_trials: int, nodes: int, folder: Path) -> dict[str, float]:
    """A part's numbers, from a process of its own."""
    command = [sys.executable, __file__, f"part={part}", f"trials={num_trials}", f"nodes={nodes}", f"folder={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{part} of {num_trials} trials: {done.stderr.strip()[-2000:]}")
    numbers: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return numbers


def exponent(sizes: list[int], values: list[float]) -> float:
    """The exponent of growth: the slope of log(value) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main(argv: list[str]) -> int:
    """Measure, and print the table. Returns 0."""
    values = parse_script(__doc__ or "", {"trials": 10000, "nodes": 100, "part": "", "folder": "mlruns/scale"}, argv)
    num_trials, nodes = values["trials"], values["nodes"]
    if values["part"]:
        print(json.dumps(PARTS[values["part"]](num_trials, nodes, Path(values["folder"]))))
        return 0
    root = Path(values["folder"]).absolute()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        sizes = [size for size in SIZES if size <= num_trials] or [num_trials]
        found: dict[int, dict[str, float]] = {size: {} for size in sizes}
        for size in sizes:
            for part in PARTS:
                if part != "mlflow":
                    found[size] |= in_a_process(part, size, nodes, folder)
            print(f"{size} trials: {json.dumps(found[size])}", file=sys.stderr, flush=True)
        mlflow = in_a_process("mlflow", 0, nodes, folder)["mlflow_ms_a_leg"]
    print("| trials | " + " | ".join(COLUMNS.values()) + " |")
    print("|---:" * (len(COLUMNS) + 1) + "|")
    for size in sizes:
        print(f"| {size:,} | " + " | ".join(f"{found[size][name]:.3g}" for name in COLUMNS) + " |")
    if len(sizes) > 2:
        for name in GROWING:
            print(f"{COLUMNS[name]}: grows with the trials to the power of {_exponent_at_last(sizes, found, name):.2f}")
    print(f"MLflow (SQLite): {mlflow:.1f} ms a leg")
    return 0


def _exponent_at_last(sizes: list[int], found: dict[int, dict[str, float]], name: str) -> float:
    """Over the larger half of the sizes: what is constant, as the start of Ray, hides growth in the small ones."""
    half = sizes[len(sizes) // 2 :] if len(sizes) > 3 else sizes
    return exponent(half, [found[size][name] for size in half])


if __name__ == "__main__":
    run_command(main)
