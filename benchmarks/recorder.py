"""How long a worker waits for the recorder: legs with made-up outcomes through the real recorder and a real MLflow.

    python benchmarks/recorder.py [legs=1000] [pause=0.0]

Starts a Ray of its own and the recorder as the actor that a sweep starts, hands it `legs` outcomes (100
steps and phases each) one after another, a trial's end after each trial's legs, and takes the time of each
acknowledgement as rank 0 sees it. MLflow (SQLite, in a temporary folder) is written meanwhile, as in a sweep; without
a pause between legs it always has work left, which is the worst case. Prints percentiles in milliseconds.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from raybench.cli import parse_script, run_command
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.recorder import Recorder
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Measurement

NUM_STEPS = 100
START_SECONDS = 10  # a trial's processes take longer to start; the recorder imports MLflow meanwhile


def main(argv: list[str]) -> int:
    """Print the percentiles. Returns 0."""
    values = parse_script(__doc__ or "", {"legs": 1000, "pause": 0.0}, argv)
    num_legs, pause_seconds = values["legs"], values["pause"]
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(num_legs)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        try:
            waits, seconds_left = measure(plan, Path(folder), pause_seconds)
        finally:
            ray.shutdown()
    milliseconds = 1e3 * np.asarray(waits)
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    print(f"{len(waits)} legs, pause {pause_seconds:g} s: acknowledged after")
    print(f"median {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms, longest {milliseconds.max():.1f} ms")
    print(f"MLflow had everything {seconds_left:.1f} s after the last leg")
    return 0


def make_plan(num_legs: int) -> Plan:
    """A plan of at least so many legs: six a trial."""
    changes = {"setting.model": "lenet", "repeats": str(-(-num_legs // 6))}
    return build_plan(*load_space("quickstart", changes), sweep="benchmark")


def measure(plan: Plan, folder: Path, pause_seconds: float) -> tuple[list[float], float]:
    """(seconds until each leg was acknowledged, seconds until MLflow had them all)."""
    uri, artifacts = f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts")
    recorder = ray.remote(Recorder).options(num_cpus=0, max_concurrency=1)
    actor = recorder.remote(plan.model_dump_json(), str(folder / "ledger"), "", uri, artifacts)
    ray.get(actor.news.remote(0))
    time.sleep(START_SECONDS)
    generator = np.random.default_rng(0)
    waits = []
    for number in itertools.count():
        if not (block := ray.get(actor.next_block.remote(number))):
            break
        ray.get(actor.block_began.remote(number))
        for leg in (leg for trial in block.trials for leg in trial.legs):
            outcome = made_up(generator)
            ray.get(actor.begin.remote("group", leg.leg_id))
            begun = time.perf_counter()
            ray.get(actor.record.remote("group", leg.leg_id, outcome))
            waits.append(time.perf_counter() - begun)
            time.sleep(pause_seconds)
        ray.get(actor.block_ended.remote(number))
    begun = time.perf_counter()
    errors = ray.get(actor.finish.remote())
    assert not errors, errors
    assert len(Ledger(folder / "ledger").leg_ids()) == len(waits)
    return waits, time.perf_counter() - begun


def made_up(generator: np.random.Generator) -> Measurement:
    """A leg of a hundred steps of about 10 ms."""
    steps = generator.normal(0.01, 0.0003, NUM_STEPS)

    def part(share: float) -> list[float]:
        values: list[float] = (share * steps).tolist()
        return values

    return Measurement(
        step_seconds=steps.tolist(), warmup_steps=20, data_seconds=part(0.05), samples_per_step=32,
        peak_device_bytes=None, peak_host_bytes=2**30, setup_seconds=0.5, train_seconds=float(steps.sum()),
        eval_seconds=0.0, first_loss=2.3, final_loss=1.0, forward_seconds=part(0.3), backward_seconds=part(0.5),
        optimizer_seconds=part(0.1), facts={"optimizer": {"class": "AdamW", "lr": 0.001}},
        environment={"cpu": "made up"}, started_at=time.time(),
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
