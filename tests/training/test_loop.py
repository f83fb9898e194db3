"""The timed region with a fake engine and a fake clock: what is timed, in which order, to the tick."""

from __future__ import annotations

import time

import numpy as np
import pytest

from raybench.training.loop import run_steps
from raybench.training.stopwatch import HostClock, StepTimes, marks_per_step, step_times
from tests.training.fake import FakeEngine, FakeTime, batches, loss_of


def run(accumulation: int, phases: bool, num_steps: int = 3) -> tuple[FakeEngine, StepTimes, list[float]]:
    time = FakeTime()
    engine = FakeEngine(time, forward=2.0, backward=4.0, step=8.0)
    clock = HostClock(time)
    losses = run_steps(
        engine, batches(time, 1.0), loss_of, clock,
        num_steps=num_steps, accumulation=accumulation, phases=phases,
    )  # fmt: skip
    marks = clock.seconds()
    assert len(marks) == num_steps * marks_per_step(accumulation, phases) + 1
    return engine, step_times(marks, accumulation, phases), [float(loss) for loss in losses]


def test_a_step_is_data_forward_backward_and_optimizer() -> None:
    _, times, losses = run(accumulation=1, phases=True)
    assert times.step.tolist() == [15.0] * 3
    assert times.data.tolist() == [1.0] * 3
    assert times.forward.tolist() == [2.0] * 3
    assert times.backward.tolist() == [4.0] * 3
    assert times.optimizer.tolist() == [8.0] * 3
    assert losses == [0.0, 1.0, 2.0]


def test_accumulation_repeats_all_but_the_optimizer() -> None:
    engine, times, losses = run(accumulation=3, phases=True, num_steps=2)
    assert times.step.tolist() == [3 * 7.0 + 8.0] * 2
    assert times.data.tolist() == [3.0] * 2
    assert times.forward.tolist() == [6.0] * 2
    assert times.backward.tolist() == [12.0] * 2
    assert times.optimizer.tolist() == [8.0] * 2
    assert len(losses) == 6
    micro = [("forward", False), ("backward", False)]
    last = [("forward", True), ("backward", True), ("step",)]
    assert engine.calls == (micro + micro + last) * 2


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_phases_step_and_data_are_the_same(accumulation: int) -> None:
    _, with_phases, _ = run(accumulation, phases=True)
    _, without, _ = run(accumulation, phases=False)
    assert without.step.tolist() == with_phases.step.tolist()
    assert without.data.tolist() == with_phases.data.tolist()
    assert without.forward is None
    assert without.optimizer is None


def test_a_steps_time_is_the_slowest_ranks() -> None:
    ranks = [
        StepTimes(np.array(step), np.array(data)) for step, data in (([3.0, 1.0], [0.1, 0.9]), ([2.0, 5.0], [0.5, 0.2]))
    ]
    slowest = ranks[0].slowest(ranks)
    assert slowest.step.tolist() == [3.0, 5.0]
    assert slowest.data.tolist() == [0.5, 0.9]
    assert slowest.forward is None


@pytest.mark.parametrize("phases", [True, False])
def test_the_clock_agrees_with_a_timer_around_the_same_steps(phases: bool) -> None:
    class Sleeping(FakeEngine):
        def _pass(self, part: str, **details: object) -> None:
            time.sleep(0.002)

    engine = Sleeping(FakeTime(), 0.0, 0.0, 0.0)
    clock = HostClock()
    begun = time.perf_counter()
    run_steps(engine, batches(FakeTime(), 0.0), loss_of, clock, num_steps=20, accumulation=1, phases=phases)
    outside = time.perf_counter() - begun
    times = step_times(clock.seconds(), 1, phases)
    assert times.step.sum() == pytest.approx(outside, rel=0.02)
    assert (times.step > 3 * 0.002).all()


def test_windows_join_in_order() -> None:
    first = StepTimes(np.array([1.0]), np.array([0.1]))
    second = StepTimes(np.array([2.0, 3.0]), np.array([0.2, 0.3]))
    assert first.joined(second).step.tolist() == [1.0, 2.0, 3.0]
