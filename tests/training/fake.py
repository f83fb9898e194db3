"""An engine and a clock that do nothing but tell and count: the loop's tests read them to the tick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class FakeTime:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Takes a known time for each of its parts and notes every call."""

    def __init__(self, time: FakeTime, forward: float, backward: float, step: float) -> None:
        self.time, self.calls = time, []
        self.seconds = {"forward": forward, "backward": backward, "step": step}

    def _pass(self, part: str, **details: Any) -> None:
        self.calls.append((part, *details.values()))
        self.time.now += self.seconds[part]

    def forward(self, images: torch.Tensor, *, last: bool) -> torch.Tensor:
        self._pass("forward", last=last)
        return images.sum()

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self._pass("backward", last=last)

    def step(self) -> None:
        self._pass("step")


def loss_of(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The engine's output is the loss."""
    loss: torch.Tensor = model(batch[0])
    return loss


def batches(time: FakeTime, wait: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches, each waited for; the n-th holds the number n."""
    number = 0
    while True:
        time.now += wait
        yield torch.full((1,), float(number)), torch.zeros(1)
        number += 1
