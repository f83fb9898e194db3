"""raybench's timed loop against a bare hand-written one: the same LeNet, batch 4, SGD, data and weights.

    python benchmarks/overhead.py [pairs=40] [steps=150] [workers=1]
    torchrun --nproc-per-node 2 benchmarks/overhead.py workers=2           # DistributedDataParallel on both sides

LeNet at batch 4 is the hardest case: a step is shorter than any other's. Each pair of blocks runs both loops, in an
order that turns from pair to pair, and both blocks are timed from outside. What is printed is the median ratio over
pairs, with phases and telemetry off and on, a 95 % interval of that median by its order statistics, and by how much
raybench's own clock differs from the outside one.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from scipy.stats import binom
from torch.nn.functional import cross_entropy

from raybench.arms import TorchArm
from raybench.plan import Leg
from raybench.setting import Setting
from raybench.training.engines import build_engine
from raybench.training.loader import Batches
from raybench.training.loop import run_steps
from raybench.training.models import build_model
from raybench.training.protocols import criterion
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import HostClock, step_times
from raybench.training.telemetry import Telemetry

CPU = torch.device("cpu")
Block = Callable[[int], float]  # steps -> seconds by an outside timer
VARIANTS = (("phases off", False, False), ("phases on", True, False), ("phases off, telemetry on", False, True))


def bare_loop(setting: Setting, rank: int) -> Block:
    """What a user would write: model, loader, optimizer, and a for loop without a clock."""
    torch.manual_seed(0)
    model = build_model(setting)[0].train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=setting.optimizer.lr,
        momentum=setting.optimizer.momentum,
        weight_decay=setting.optimizer.weight_decay,
        foreach=True,
    )
    if setting.workers > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    batches = iter(Batches(setting, rank, 0, CPU))

    def block(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            images, labels = next(batches)
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - begun

    return block


def raybench_loop(
    setting: Setting, ranks: Ranks, phases: bool, telemetry: Telemetry, clock_ratios: list[float]
) -> Block:
    """The same through raybench's engine, loop and clock, as a leg runs them."""
    torch.manual_seed(0)
    leg = Leg(leg_id="", arm_name="", arm=TorchArm(), is_baseline=True, setting=setting, round=0, position=0)
    engine = build_engine(leg, build_model(setting)[0].train(), CPU)
    batches = iter(Batches(setting, ranks.rank, 0, CPU))

    def block(steps: int) -> float:
        clock = HostClock()
        with telemetry.window():
            ranks.barrier()
            begun = time.perf_counter()
            run_steps(engine, batches, criterion, clock, num_steps=steps, accumulation=1, phases=phases)
            seconds = time.perf_counter() - begun
        clock_ratios.append(float(step_times(clock.seconds(), 1, phases).step.sum()) / seconds)
        return seconds

    return block


def interleaved(bare: Block, ours: Block, ranks: Ranks, pairs: int, steps: int) -> list[float]:
    """The ratio of each pair, raybench's seconds over the bare loop's; the slowest rank's where there are several."""
    ratios = []
    for number in range(pairs + 1):
        blocks = (bare, ours) if number % 2 else (ours, bare)
        seconds = {}
        for block in blocks:
            ranks.barrier()
            seconds[block] = max(ranks.gather(block(steps)))
        ratios.append(seconds[ours] / seconds[bare])
    return ratios[1:]  # the first pair warms up


def median_interval(values: list[float]) -> tuple[float, float]:
    """Two of the values between which the median lies with 95 % or more: order statistics, no assumption of a shape."""
    ordered, n = sorted(values), len(values)
    low = max(0, int(binom.ppf(0.025, n, 0.5)) - 1)
    return ordered[low], ordered[n - 1 - low]


@contextlib.contextmanager
def joined(workers: int) -> Iterator[Ranks]:
    """The ranks of torchrun's processes, or of this one."""
    if workers > 1:
        dist.init_process_group("gloo")
    try:
        yield Ranks.joined(CPU, 600)
    finally:
        if workers > 1:
            dist.destroy_process_group()


def main(pairs: int = 40, steps: int = 150, workers: int = 1) -> None:
    """Print a line for each variant."""
    torch.set_num_threads(1)
    setting = Setting(
        model="lenet", dataset="synthetic", batch_size=4 * workers, workers=workers, optimizer={"name": "sgd"}
    )
    with joined(workers) as ranks:
        bare = bare_loop(setting, ranks.rank)
        for name, phases, sampled in VARIANTS:
            clock_ratios: list[float] = []
            with Telemetry(ranks, sampled) as telemetry:
                telemetry.begin_leg()
                ours = raybench_loop(setting, ranks, phases, telemetry, clock_ratios)
                ratios = interleaved(bare, ours, ranks, pairs, steps)
            low, high = median_interval(ratios)
            if ranks.rank == 0:
                print(
                    f"{name}: median ratio {statistics.median(ratios):.4f}, 95 % [{low:.4f}, {high:.4f}] over {pairs} "
                    f"pairs of {steps} steps, {workers} workers; own clock over outside timer "
                    f"{statistics.median(clock_ratios):.5f}",
                    flush=True,
                )


if __name__ == "__main__":
    main(**{key: int(value) for key, _, value in (token.partition("=") for token in sys.argv[1:])})
