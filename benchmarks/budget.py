"""What a leg's hashes, checks and telemetry cost outside its measured steps, in milliseconds a leg.

    python benchmarks/budget.py [models=lenet,resnet50,vgg16] [legs=5]

Runs legs of a few steps in this process, for each model with plain PyTorch and with ZeRO-1, and times the functions
that raybench adds to what a user would do. A function's time is without that of the functions timed inside it. Printed
is the median over the legs after the first. No row should exceed 20 ms. Gradients are read in two warm-up steps here.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from alone import environment_of_one

from raybench.cli import parse_script, run_command
from raybench.declare.arms import DeepSpeedArm, TorchArm
from raybench.declare.plan import build_plan
from raybench.declare.space import Space
from raybench.training import facts, leg, memory
from raybench.training.firststep import Probed
from raybench.training.initial import InitialModel
from raybench.training.leg import run_leg
from raybench.training.node.sampling import SamplerProcess, Telemetry
from raybench.training.ranks import Ranks
from raybench.training.worker import prepare

# What is timed: the row of the table, and where the function stands.
PARTS: list[tuple[str, Any, str]] = [
    ("hashes of weights and batch", facts, "tensors_hash"),
    ("facts of the model", facts, "model_facts"),
    ("facts of batch and data", facts, "run_facts"),
    ("checksums of the parameters", memory, "checksum"),
    ("norms of the first gradients", Probed, "look_at_norm"),
    ("memory by part", Probed, "_held"),
    ("predicted memory", leg, "predicted_bytes"),
    ("peaks reset", memory, "begin_peaks"),
    ("peaks read", memory, "read_peaks"),
    ("telemetry", SamplerProcess, "ask"),
    ("garbage collection", gc, "collect"),
    ("memory given back", memory, "release"),
]  # fmt: skip


class SelfTimes:
    """Seconds by name; time of timed functions inside a timed one counts for them alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            self._inside.append(0.0)
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                taken = time.perf_counter() - begun
                self.seconds[name] += taken - self._inside.pop()
                if self._inside:
                    self._inside[-1] += taken

        return run


@contextlib.contextmanager
def all_timed(times: SelfTimes) -> Iterator[None]:
    """Time all parts inside."""
    before = [getattr(place, function) for _, place, function in PARTS]
    for name, place, function in PARTS:
        setattr(place, function, times.timed(name, getattr(place, function)))
    try:
        yield
    finally:
        for (_, place, function), kept in zip(PARTS, before, strict=True):
            setattr(place, function, kept)


def costs_of(model: str, ranks: Ranks, num_legs: int) -> dict[str, dict[str, float]]:
    """Milliseconds a leg, by arm and part."""
    space = Space(
        setting={"model": model, "dataset": "digits", "batch_size": 4},
        arms={"torch": TorchArm(engine="torch"), "zero1": DeepSpeedArm(engine="deepspeed", zero=1)},
        protocol={"warmup_steps": 2, "steps": 3, "rounds": num_legs},
        repeats=1,
    )  # fmt: skip
    (trial,) = build_plan("budget", space).trials
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    initial = InitialModel()
    prepare(trial, trial.legs, ranks)
    memory.freeze_imports()
    with Telemetry(ranks, True) as telemetry:
        for one in trial.legs:
            times = SelfTimes()
            with all_timed(times):
                run_leg(trial, one, ranks, telemetry, initial)
                memory.release(ranks.device)
            found[one.arm_name].append(times.seconds)
    return {
        arm: {name: 1e3 * statistics.median(leg.get(name, 0.0) for leg in legs[1:]) for name, *_ in PARTS}
        for arm, legs in found.items()
    }


def main(argv: list[str]) -> int:
    """Print one table a model. Returns 0."""
    values = parse_script(__doc__ or "", {"models": "lenet,resnet50,vgg16", "legs": 5}, argv)
    os.environ |= environment_of_one()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(0, 1, device, None)
    for model in values["models"].split(","):
        costs = costs_of(model, ranks, values["legs"])
        print(f"\n{model}, ms a leg".ljust(33) + "".join(f"{arm:>10}" for arm in costs))
        for name, *_ in PARTS:
            print(f"{name:<32}" + "".join(f"{by_part[name]:10.1f}" for by_part in costs.values()), flush=True)
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    run_command(main)
