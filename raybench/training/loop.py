"""The timed region, whole. A change here must show what it costs (CONTRIBUTING.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from raybench.training.engines import Engine
from raybench.training.loader import Batch
from raybench.training.stopwatch import Clock

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def run_steps(
    engine: Engine,
    batches: Iterator[Batch],
    criterion: Criterion,
    clock: Clock,
    *,
    num_steps: int,
    accumulation: int,
    phases: bool,
) -> list[torch.Tensor]:
    """Run `num_steps` optimizer steps between marks of the clock.

    Returns the loss of every micro-batch, detached scalars still on the device: nothing in here waits for it.
    The optimizer's gradients are zeroed inside `engine.step`.
    """
    mark = clock.mark
    mark_phase = clock.mark if phases else _nothing
    losses: list[torch.Tensor] = []
    for _ in range(num_steps):
        for micro in range(1, accumulation + 1):
            last = micro == accumulation
            mark()
            images, labels = next(batches)
            mark()
            loss = criterion(engine.forward(images, last=last), labels)
            mark_phase()
            engine.backward(loss, last=last)
            mark_phase()
            losses.append(loss.detach())
        engine.step()
    mark()
    return losses


def _nothing() -> None:
    pass
