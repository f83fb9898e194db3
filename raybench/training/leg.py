"""One leg: build, warm up, measure, tear down. The same for every engine."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from raybench.outcome import Measurement
from raybench.plan import Leg, Trial
from raybench.protocol import Throughput
from raybench.setting import Setting
from raybench.steady import steady_from_step
from raybench.training import facts, memory
from raybench.training.blocks import checkpoint_activations, num_checkpointed
from raybench.training.data import Batch, Batches
from raybench.training.engines import Engine, Unsupported, build_engine
from raybench.training.environment import environment
from raybench.training.loop import run_steps
from raybench.training.models import build_model, work_facts
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import Clock, DeviceClock, HostClock, StepTimes, marks_per_step, step_times
from raybench.training.telemetry import Telemetry


class NotFinite(ArithmeticError):
    """A loss that is no number, or infinite."""


class NothingTrained(AssertionError):
    """The steps ran, but gradients were zero or no parameter changed."""


def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy in fp32 whatever the engine computes in, outside any autocast: the same in every arm."""
    return cross_entropy(logits.float(), labels)


@dataclass(frozen=True)
class _Run:
    """What one rank brings out of its steps."""

    times: StepTimes
    losses: list[float]  # mean over a step's micro-batches
    facts: dict[str, Any]


def run_leg(trial: Trial, leg: Leg, ranks: Ranks, telemetry: Telemetry) -> Measurement:
    """Run one leg on every rank of the group; every rank returns the same measurement.

    Raises NotFinite or NothingTrained when nothing was trained, InvalidConfig and Unsupported from the engine,
    and whatever else the libraries raise.
    """
    started_at = time.time()
    telemetry.begin_leg()
    seed_everything(trial.seed)
    set_precision(leg.setting)
    peaks_reset = memory.reset_peaks(ranks.device)
    begun = time.perf_counter()
    model, options = build_model(leg.setting)
    model_facts = facts.model_facts(model, options)
    model.to(ranks.device).train()
    if leg.setting.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if leg.setting.activation_checkpointing:
        checkpoint_activations(model)
    batches = Batches(leg.setting, ranks.rank, trial.seed, ranks.device)
    engine = build_engine(leg, model, ranks.device)
    try:
        ranks.barrier()
        setup_seconds = time.perf_counter() - begun
        run = _run_protocol(trial, leg, model, engine, batches, ranks, telemetry)
        peak_host = memory.peak_host_bytes(peaks_reset)
        peak_device = memory.peak_device_bytes(ranks.device)
    finally:
        engine.destroy()
    everyone = ranks.gather((run.times, run.losses, setup_seconds, peak_host, peak_device))
    times = run.times.slowest([other[0] for other in everyone])
    losses = np.mean([other[1] for other in everyone], axis=0)
    if not np.isfinite(losses).all():
        raise NotFinite(f"the loss of step {int(np.argmin(np.isfinite(losses)))} is {losses[~np.isfinite(losses)][0]}")
    reading = telemetry.gather()
    return Measurement(
        step_seconds=times.step.tolist(),
        warmup_steps=trial.protocol.warmup_steps,
        data_seconds=times.data.tolist(),
        forward_seconds=_listed(times.forward),
        backward_seconds=_listed(times.backward),
        optimizer_seconds=_listed(times.optimizer),
        samples_per_step=leg.setting.batch_size,
        peak_device_bytes=max((p for *_, p in everyone if p is not None), default=None),
        peak_host_bytes=max(peak for *_, peak, _ in everyone),
        setup_seconds=max(seconds for _, _, seconds, _, _ in everyone),
        train_seconds=float(times.step.sum()),
        eval_seconds=0.0,
        first_loss=float(losses[0]),
        final_loss=float(losses[-1]),
        steady_from_step=steady_from_step(times.step.tolist()),
        telemetry=reading.nodes,
        energy_joules=reading.energy_joules,
        foreign_cpu_cores=reading.foreign_cpu_cores,
        contaminated=reading.contaminated,
        missing_instruments=reading.missing,
        facts={
            **model_facts,
            **work_facts(leg.setting, model_facts["num_parameters"]),
            **run.facts,
            "first_loss": float(losses[0]),
        },
        environment=environment(),
        started_at=started_at,
    )


def seed_everything(seed: int) -> None:
    """The same random state on every rank and in every arm of a trial."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def set_precision(setting: Setting) -> None:
    """TF32 on for `precision: tf32` alone, in matrix products and convolutions; cudnn autotunes on every leg."""
    tf32 = setting.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


class _Probed:
    """An engine for its first step: looks at what the layers meet, and takes the gradient's norm before it steps."""

    def __init__(self, engine: Engine, model: nn.Module, device_type: str) -> None:
        self._engine = engine
        self.forward, self.backward = engine.forward, engine.backward
        self.seen = facts.ForwardSeen(model, device_type)
        self.gradient_norm = math.nan

    def step(self) -> None:
        self.gradient_norm = self._engine.gradient_norm()
        self._engine.step()
        self.seen.remove()


def _run_protocol(
    trial: Trial, leg: Leg, model: nn.Module, engine: Engine, batches: Batches, ranks: Ranks, telemetry: Telemetry
) -> _Run:
    """Warm-up steps, then measured steps; the checks that something trained stand outside both."""
    protocol, accumulation = trial.protocol, leg.setting.accumulation
    if not isinstance(protocol, Throughput):
        raise Unsupported("protocol: kind train cannot be run yet")
    stream = iter(batches)
    first = next(stream)
    run_facts = facts.run_facts(leg, batches, first, ranks)
    before = engine.checksum()
    probed = _Probed(engine, model, ranks.device.type)
    windows = [
        _timed(probed, itertools.chain([first], stream), ranks, 1, accumulation, protocol.phases),  # type: ignore[arg-type]
        _timed(engine, stream, ranks, protocol.warmup_steps - 1, accumulation, protocol.phases),
    ]
    with _no_garbage_collection(), telemetry.window():
        windows.append(_timed(engine, stream, ranks, protocol.steps, accumulation, protocol.phases))
    losses = [float(loss) for _, window in windows for loss in window]
    per_step = np.asarray(losses).reshape(-1, accumulation).mean(axis=1)
    gradient_norm = probed.gradient_norm
    overflowed = leg.setting.precision == "fp16" and not math.isfinite(gradient_norm)  # the loss scale comes down
    if np.isfinite(per_step).all() and not gradient_norm > 0 and not overflowed:
        raise NothingTrained(f"the first step's gradient norm is {gradient_norm}: nothing can have been trained")
    if engine.checksum() == before:
        raise NothingTrained("no parameter changed in the whole leg: nothing was trained")
    times = windows[0][0]
    for window_times, _ in windows[1:]:
        times = times.joined(window_times)
    found = {
        **run_facts,
        "compiled": facts.is_compiled(model),
        "activation_checkpointing": num_checkpointed(model) > 0,
        **engine.facts(),
        **probed.seen.facts(),
    }
    if math.isfinite(gradient_norm):
        found["first_gradient_norm"] = gradient_norm
    return _Run(times, per_step.tolist(), found)


def _timed(
    engine: Engine, stream: Iterator[Batch], ranks: Ranks, num_steps: int, accumulation: int, phases: bool
) -> tuple[StepTimes, list[torch.Tensor]]:
    clock: Clock = HostClock()
    if ranks.device.type == "cuda":
        clock = DeviceClock(num_steps * marks_per_step(accumulation, phases) + 1)
        torch.cuda.synchronize()
    ranks.barrier()
    losses = run_steps(engine, stream, criterion, clock, num_steps=num_steps, accumulation=accumulation, phases=phases)
    return step_times(clock.seconds(), accumulation, phases), losses


class _no_garbage_collection:
    """Nothing is collected inside; what is alive on entry is not looked at again until the exit."""

    def __enter__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()


def _listed(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else values.tolist()
