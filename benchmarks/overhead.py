"""raybench's timed loop against a bare hand-written one: the same LeNet, batch 4, SGD, data and weights.

    python benchmarks/overhead.py [processes=10] [rounds=40] [steps=100] [workers=1] [engine=torch|deepspeed]
                                  [variants=3] [out=FILE]

LeNet at batch 4 is the hardest case: a step is shorter than any other's. Where a process happens to put its models and
buffers in memory shifts a loop by a per cent or so for as long as it lives, so several fresh processes are asked, and
each holds a second bare loop as the control. A round runs blocks of all loops, in an order that turns, each timed from
outside; a process's ratio is the median over rounds of a block to the geometric mean of the two bare ones. Printed are
the geometric mean over processes and its 95 % t interval, for phases and telemetry off and on and for the control, and
by how much raybench's own clock differs from the outside one. `workers=2` asks torchrun for two ranks a process, with
DistributedDataParallel in all loops. `engine=deepspeed` has a bare loop around a DeepSpeed engine (ZeRO-1) instead.
Where torch sees a GPU all of it runs there; `out` gets the geometric means as JSON, anew after each process.
`variants=1` leaves out phases and telemetry: a DeepSpeed step takes ten times as long, and all of it most of an hour.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from alone import environment_of_one
from scipy import stats
from torch.nn.functional import cross_entropy

from raybench.cli import parse_script, run_command
from raybench.declare.arms import Arm, DeepSpeedArm, TorchArm
from raybench.declare.deepspeed_config import deepspeed_config
from raybench.declare.plan import Leg
from raybench.declare.setting import Setting
from raybench.errors import UserError
from raybench.text import suggest
from raybench.training.engines import build_engine
from raybench.training.engines.deepspeed_engine import fit_buckets
from raybench.training.engines.deepspeed_ops import import_deepspeed
from raybench.training.loader import Batches
from raybench.training.loop import run_steps
from raybench.training.node.sampling import Telemetry
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import DeviceClock, HostClock, step_times
from raybench.training.tasks import build_task

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ARMS: dict[str, Arm] = {"torch": TorchArm(), "deepspeed": DeepSpeedArm(engine="deepspeed", zero=1)}
Block = Callable[[int], float]  # steps -> seconds by an outside timer
CONTROL, CLOCK = "bare again (the control)", "own clock over the outside timer"
VARIANTS = {"phases off": (False, False), "phases on": (True, False), "phases off, telemetry on": (False, True)}


def bare_loop(setting: Setting, rank: int, engine: str) -> Block:
    """What a user would write: model, loader, optimizer or DeepSpeed engine, and a for loop without a clock."""
    torch.manual_seed(0)
    task = build_task(setting)
    model: torch.nn.Module = task.build_model().to(DEVICE).train()
    step = _deepspeed_step(model, setting) if engine == "deepspeed" else _torch_step(model, setting)
    batches = iter(Batches(task, rank, 0, DEVICE))

    def block(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            step(*next(batches))
        settle()
        return time.perf_counter() - begun

    return block


def _torch_step(model: torch.nn.Module, setting: Setting) -> Callable[[torch.Tensor, torch.Tensor], None]:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=setting.optimizer.lr,
        momentum=setting.optimizer.momentum,
        weight_decay=setting.optimizer.weight_decay,
        foreach=True,
    )
    if setting.workers > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _deepspeed_step(model: torch.nn.Module, setting: Setting) -> Callable[[torch.Tensor, torch.Tensor], None]:
    import deepspeed

    config = deepspeed_config(ARMS["deepspeed"], setting)
    if DEVICE.type == "cpu":
        fit_buckets(config, sum(parameter.numel() for parameter in model.parameters()))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=setting.optimizer.lr, momentum=setting.optimizer.momentum, foreach=True
    )
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        engine.backward(cross_entropy(engine(images), labels))
        engine.step()

    return step


def settle() -> None:
    """Wait for what the device still has to do."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def raybench_loop(
    setting: Setting, ranks: Ranks, phases: bool, telemetry: Telemetry, clock_ratios: list[float], engine: str
) -> Block:
    """The same through raybench's engine, loop and clock, as a leg runs them."""
    torch.manual_seed(0)
    task = build_task(setting)
    leg = Leg(leg_id="", arm_name="", arm=ARMS[engine], is_baseline=True, setting=setting, round=0, position=0)
    trained = build_engine(leg, task.build_model().to(DEVICE).train(), DEVICE)
    batches = iter(Batches(task, ranks.rank, 0, DEVICE))

    def block(steps: int) -> float:
        clock = DeviceClock(4 * steps + 4) if DEVICE.type == "cuda" else HostClock()
        with telemetry.window():
            ranks.barrier()
            begun = time.perf_counter()
            run_steps(trained, batches, task.loss, clock, num_steps=steps, accumulation=1, phases=phases)
            settle()
            seconds = time.perf_counter() - begun
        clock_ratios.append(float(step_times(clock.seconds(), 1, phases).step.sum()) / seconds)
        return seconds

    return block


def median_ratios(bare: Block, ours: Block, again: Block, ranks: Ranks, rounds: int, steps: int) -> dict[str, float]:
    """The median over rounds of each loop's seconds to the bare ones'; the slowest rank's where there are several."""
    loops = {"bare": bare, "ours": ours, "again": again}
    names, ratios = list(loops), []
    for number in range(rounds + 1):
        seconds = {}
        for name in (names[number % 3 :] + names[: number % 3])[:: 1 if number % 2 else -1]:
            ranks.barrier()
            seconds[name] = max(ranks.gather(loops[name](steps)))
        ratios.append(
            (seconds["ours"] / math.sqrt(seconds["bare"] * seconds["again"]), seconds["again"] / seconds["bare"])
        )
    ours_ratios, control = zip(*ratios[1:], strict=True)  # the first round warms up
    return {"ours": statistics.median(ours_ratios), "control": statistics.median(control)}


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of the processes that `compare` started."""
    if DEVICE.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield Ranks.joined(DEVICE, 600)
    finally:
        dist.destroy_process_group()


def measure(number: int, rounds: int, steps: int, workers: int, engine: str, variants: int) -> None:
    """One process: print its ratios as JSON. Odd processes build raybench's loop before the bare ones."""
    torch.set_num_threads(1)
    setting = Setting(
        model="lenet", dataset="synthetic", batch_size=4 * workers, workers=workers, optimizer={"name": "sgd"}
    )
    found: dict[str, float] = {}
    with joined() as ranks:
        if engine == "deepspeed":
            import_deepspeed(ranks)
        for name, (phases, sampled) in list(VARIANTS.items())[:variants]:
            clock_ratios: list[float] = []
            with Telemetry(ranks, sampled) as telemetry:
                telemetry.begin_leg()
                build = {
                    "bare": lambda: bare_loop(setting, ranks.rank, engine),
                    "ours": lambda p=phases, t=telemetry, c=clock_ratios: raybench_loop(
                        setting, ranks, p, t, c, engine
                    ),
                    "again": lambda: bare_loop(setting, ranks.rank, engine),
                }
                order = list(build)[number % 3 :] + list(build)[: number % 3]
                loops = {loop: build[loop]() for loop in order}
                ratios = median_ratios(loops["bare"], loops["ours"], loops["again"], ranks, rounds, steps)
            found[name] = ratios["ours"]
            found.setdefault(CONTROL, ratios["control"])
            found.setdefault(CLOCK, statistics.median(clock_ratios))
        if ranks.rank == 0:
            print(json.dumps(found), flush=True)


def compare(
    processes: int, rounds: int, steps: int, workers: int, engine: str, variants: int, out: Path | None
) -> None:
    """Ask fresh processes one after another, and print a line for each variant; `out` gets the geometric means."""
    found: dict[str, list[float]] = {}
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={workers}"] if workers > 1 else []
    keys = {"rounds": rounds, "steps": steps, "workers": workers, "engine": engine, "variants": variants}
    for number in range(processes):
        words = [f"number={number}", *(f"{key}={value}" for key, value in keys.items())]
        done = subprocess.run(
            [sys.executable, *launcher, __file__, *words], stdout=subprocess.PIPE, text=True, check=True,
            env=environment_of_one() if workers == 1 else None,
        )  # fmt: skip
        for name, ratio in json.loads(done.stdout.strip().splitlines()[-1]).items():
            found.setdefault(name, []).append(ratio)
        if out is not None:
            out.write_text(json.dumps({name: _interval(ratios)[1] for name, ratios in found.items()}))
    print(f"{engine}: {processes} processes, {rounds} rounds of {steps} steps each, {workers} workers")
    for name, ratios in found.items():
        low, mean, high = _interval(ratios)
        print(f"{name:<34} {mean:.4f}   95 % [{low:.4f}, {high:.4f}]   {min(ratios):.4f} to {max(ratios):.4f}")


def _interval(ratios: list[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios and its 95 % t interval on their logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    if len(logs) == 1:
        return ratios[0], ratios[0], ratios[0]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    return math.exp(mean - reach), math.exp(mean), math.exp(mean + reach)


def main(argv: list[str]) -> int:
    """Compare the loops, or measure one process's. Returns 0."""
    defaults = {
        "processes": 10, "rounds": 40, "steps": 100, "workers": 1, "engine": "torch", "variants": len(VARIANTS),
        "out": "", "number": -1,
    }  # fmt: skip
    values = parse_script(__doc__ or "", defaults, argv)
    if values["engine"] not in ARMS:
        raise UserError(f"engine={values['engine']}: {suggest(values['engine'], ARMS)}")
    number, processes, out = values.pop("number"), values.pop("processes"), values.pop("out")
    if number >= 0:
        measure(number, **values)
    else:
        compare(processes, **values, out=Path(out) if out else None)
    return 0


if __name__ == "__main__":
    run_command(main)
