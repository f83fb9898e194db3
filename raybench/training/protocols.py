"""What a leg does with its engine: a number of steps, or whole epochs with evaluation between them.

Only training steps are timed (`loop.run_steps`). The start of an epoch (`set_epoch`, a new iterator over the loader)
counts as the data wait of its first step, in every arm. Evaluation, reading the losses and garbage collection happen
between epochs and are not timed.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import Throughput, Train
from raybench.errors import InvalidConfig, NothingTrained
from raybench.statistics.num_steps import pilot_steps
from raybench.training import facts
from raybench.training.engines import Engine
from raybench.training.evaluation import Evaluation, Evaluator
from raybench.training.firststep import NormsAlone, Probed
from raybench.training.loader import Batches
from raybench.training.loop import LossOf, run_steps
from raybench.training.models.layers import num_checkpointed
from raybench.training.node.sampling import Telemetry
from raybench.training.profiling import ProfiledSteps, profile_steps
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import Clock, DeviceClock, HostClock, StepTimes, marks_per_step, step_times
from raybench.training.tasks.task import Task
from raybench.training.tasks.trees import Tree

_MOST_NORMS = 10  # as many steps as have their losses compared


@dataclass(frozen=True)
class Run:
    """One rank's results."""

    times: StepTimes
    losses: list[float]  # mean over a step's micro-batches
    gradient_norms: list[float]  # of the first warm-up steps; nan where they could not be read
    facts: dict[str, Any]
    memory_parts: dict[str, int | None]  # bytes by part
    epochs: list[tuple[int, Evaluation | None]]  # steps until an epoch's end, and its evaluation
    evaluations: list[Evaluation]
    profiled: ProfiledSteps | None = None


@dataclass
class Steps:
    """The timed steps of one rank so far, window after window."""

    ranks: Ranks
    loss_of: LossOf
    accumulation: int
    phases: bool
    times: list[StepTimes] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # mean over a step's micro-batches

    def run(self, engine: Engine, stream: Iterator[Tree], num_steps: int) -> None:
        """Run and time `num_steps` steps; the losses are read afterwards."""
        clock: Clock = HostClock()
        if self.ranks.device.type == "cuda":
            clock = DeviceClock(num_steps * marks_per_step(self.accumulation, self.phases) + 1)
            torch.cuda.synchronize()
        self.ranks.barrier()
        losses = run_steps(
            engine, stream, self.loss_of, clock,
            num_steps=num_steps, accumulation=self.accumulation, phases=self.phases,
        )  # fmt: skip
        self.times.append(step_times(clock.seconds(), self.accumulation, self.phases))
        values = [float(loss) for loss in losses]
        self.losses += np.reshape(values, (-1, self.accumulation)).mean(axis=1).tolist()

    def joined(self) -> StepTimes:
        """The times of all steps."""
        times = self.times[0]
        for window in self.times[1:]:
            times = times.joined(window)
        return times


@dataclass(frozen=True)
class Procedure:
    """A leg's protocol on one rank, with everything it needs."""

    trial: Trial
    leg: Leg
    task: Task
    model: nn.Module
    engine: Engine
    batches: Batches
    evaluator: Evaluator | None
    ranks: Ranks
    telemetry: Telemetry

    def run(self) -> Run:
        """Follow the protocol, then check that something was trained.

        Raises NothingTrained, and InvalidConfig where an epoch is shorter than the warm-up.
        """
        protocol, accumulation = self.trial.protocol, self.leg.setting.accumulation
        steps = Steps(self.ranks, self.task.loss, accumulation, protocol.phases)
        stream = iter(self.batches) if isinstance(protocol, Throughput) else self.batches.epoch()
        first = next(stream)
        run_facts = facts.run_facts(self.leg, self.task, self.batches, first, self.ranks)
        before = self.engine.checksum()
        probed = Probed(self.engine, self.model, self.ranks)
        stream = itertools.chain([first], stream)
        epochs: list[tuple[int, Evaluation | None]] = []
        if isinstance(protocol, Throughput):
            self._warm_up(steps, probed, stream)
            num_steps = self._pilot_steps(steps) if protocol.steps == "auto" else protocol.steps
            with _no_garbage_collection(), self.telemetry.window():
                steps.run(self.engine, stream, num_steps)
            evaluations = [self._evaluate()] if protocol.evaluate else []
        else:
            epochs = self._train(protocol, steps, probed, stream)
            evaluations = [evaluation for _, evaluation in epochs if evaluation is not None]
        profiled = self._profile(stream) if self.leg.profiled else None
        self._check(steps.losses, probed.gradient_norm, before)
        found = {
            **run_facts,
            "compiled": facts.is_compiled(self.model),
            "activation_checkpointing": num_checkpointed(self.model) > 0,
        }
        for facts_of_part in (self.engine.facts(), probed.facts()):
            informative = {**found.get("informative", {}), **facts_of_part.get("informative", {})}
            found |= {**facts_of_part, "informative": informative}
        if evaluations:
            found["evaluated_samples"] = evaluations[-1].num_samples
        if epochs:
            found = facts.for_an_epoch(found, len(epochs))
        return Run(
            steps.joined(),
            steps.losses,
            probed.gradient_norms,
            found,
            probed.memory_parts(),
            epochs,
            evaluations,
            profiled,
        )

    def _profile(self, stream: Iterator[Tree]) -> ProfiledSteps:
        accumulation = self.leg.setting.accumulation
        with _no_garbage_collection():
            return profile_steps(self.engine, stream, self.task.loss, accumulation, self.ranks, self.telemetry.window)

    def _pilot_steps(self, steps: Steps) -> int:
        """A pilot's number of steps, from the pace of its warm-up; rank 0's for all ranks."""
        return int(self.ranks.gather(pilot_steps(float(steps.times[-1].step.mean())))[0])

    def _warm_up(self, steps: Steps, probed: Probed, stream: Iterator[Tree]) -> None:
        """Run the unmeasured steps; read the gradients of the first ten, if there are so many."""
        num_steps = self.trial.protocol.warmup_steps
        steps.run(probed, stream, 1)  # type: ignore[arg-type]
        num_looks = min(num_steps, _MOST_NORMS) if probed.gradient_norm is not None else 1
        if num_looks > 1:
            steps.run(NormsAlone(self.engine, probed), stream, num_looks - 1)  # type: ignore[arg-type]
        if num_steps > num_looks:
            steps.run(self.engine, stream, num_steps - num_looks)

    def _train(
        self, protocol: Train, steps: Steps, probed: Probed, stream: Iterator[Tree]
    ) -> list[tuple[int, Evaluation | None]]:
        """Run epochs until the last, the target, or a loss that is not finite; all ranks end together."""
        per_epoch = self.batches.steps_per_epoch
        if protocol.warmup_steps >= per_epoch:
            raise InvalidConfig(
                f"protocol.warmup_steps {protocol.warmup_steps} must be less than the {per_epoch} steps of an epoch"
            )
        self._warm_up(steps, probed, stream)
        epochs: list[tuple[int, Evaluation | None]] = []
        for epoch in range(1, protocol.epochs + 1):
            with _no_garbage_collection(), self.telemetry.window():
                steps.run(self.engine, stream, epoch * per_epoch - len(steps.losses))
            stream = self.batches.epoch()
            due = epoch % protocol.evaluate_every == 0 or epoch == protocol.epochs
            evaluation = self._evaluate() if due else None
            epochs.append((len(steps.losses), evaluation))
            finite = all(self.ranks.gather(bool(np.isfinite(steps.losses).all())))
            if not finite or (evaluation is not None and _reaches(protocol, evaluation)):
                break
        return epochs

    def _evaluate(self) -> Evaluation:
        assert self.evaluator is not None
        return self.evaluator.evaluate(self.engine, self.model)

    def _check(self, losses: list[float], gradient_norm: float | None, before: float) -> None:
        """Raise NothingTrained unless the first gradient, where known, was more than zero and parameters changed."""
        known = gradient_norm is not None and (
            self.leg.setting.precision != "fp16" or math.isfinite(gradient_norm)  # else the scaler lowers the scale
        )
        if known and np.isfinite(losses).all() and not (gradient_norm or 0) > 0:
            raise NothingTrained(f"the first step's gradient norm is {gradient_norm}: nothing can have been trained")
        if self.engine.checksum() == before:
            raise NothingTrained("no parameter changed in the whole leg: nothing was trained")


def _reaches(protocol: Train, evaluation: Evaluation) -> bool:
    """Whether the leg ends here because it reached its target."""
    accuracy, loss = protocol.target_accuracy, protocol.target_loss
    reached = accuracy is not None and evaluation.accuracy is not None and evaluation.accuracy >= accuracy
    reached = reached or (loss is not None and evaluation.loss <= loss)
    return protocol.stop_at_target and reached


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection inside; leftovers of building and warm-up are collected before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
