"""The whole timed region. A change here must show what it costs (CONTRIBUTING.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from raybench.training.engines import Engine
from raybench.training.stopwatch import Clock
from raybench.training.tasks.task import Forward
from raybench.training.tasks.trees import Tree

LossOf = Callable[[Forward, Tree], torch.Tensor]


def run_steps(
    engine: Engine,
    batches: Iterator[Tree],
    loss_of: LossOf,
    clock: Clock,
    *,
    num_steps: int,
    accumulation: int,
    phases: bool,
) -> list[torch.Tensor]:
    """Run `num_steps` optimizer steps between marks of the clock.

    Returns the loss of every micro-batch, detached scalars still on the device: nothing here waits for it. The
    optimizer's gradients are zeroed inside `engine.step`.
    """
    mark = clock.mark
    mark_phase = clock.mark if phases else _nothing
    losses: list[torch.Tensor] = []
    for _ in range(num_steps):
        for micro in range(1, accumulation + 1):
            last = micro == accumulation
            mark()
            batch = next(batches)
            mark()
            loss = loss_of(partial(engine.forward, last=last), batch)
            mark_phase()
            engine.backward(loss, last=last)
            mark_phase()
            losses.append(loss.detach())
        engine.step()
    mark()
    return losses


def _nothing() -> None:
    pass
