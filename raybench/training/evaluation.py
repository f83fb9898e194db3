"""Evaluation on the test split, shared by the ranks: every sample counts exactly once, in every arm the same way.

A rank takes every `world`-th sample. All ranks run the same number of forward passes of one shape, because a forward
pass may be collective (FSDP, ZeRO-3, DDP with buffers); padding samples do not count. The evaluated model is the one
that a checkpoint would hold: every rank uses rank 0's buffers (BatchNorm's running statistics) and gets its own back
afterwards, so that evaluation does not affect the training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from raybench.training.engines import Engine
from raybench.training.ranks import Ranks
from raybench.training.tasks.task import Task
from raybench.training.tasks.trees import move


@dataclass(frozen=True)
class Evaluation:
    """A model's results on the test split; accuracies are fractions."""

    seconds: float  # of the slowest rank
    num_samples: int  # over all ranks
    loss: float  # mean
    accuracy: float | None = None  # top-1; for classifiers
    bits_per_byte: float | None = None  # for text predicted token by token
    accuracy_top5: float | None = None  # None for five classes or fewer


@dataclass(frozen=True)
class Share:
    """A rank's part of the test split: indices by batch, and how many of each batch count."""

    batches: list[list[int]]
    counted: list[int]


def share_of(rank: int, world: int, samples: int, batch_size: int) -> Share:
    """A rank's share: every `world`-th sample, in batches of one size, as many batches as any rank has."""
    own = list(range(rank, samples, world))
    num_batches = -(-len(range(0, samples, world)) // batch_size)  # rank 0 has the most
    padded = own + [0] * (num_batches * batch_size - len(own))
    starts = range(0, len(padded), batch_size)
    return Share(
        [padded[start : start + batch_size] for start in starts],
        [max(0, min(batch_size, len(own) - start)) for start in starts],
    )


class Evaluator:
    """This rank's share of a task's held-out samples, evaluated with an engine's own forward pass."""

    def __init__(self, task: Task, ranks: Ranks) -> None:
        setting, data = task.setting, task.dataset(train=False)
        self.task, self.ranks = task, ranks
        task.prepare_scores()
        self.num_samples = task.num_samples(train=False)
        self.share = share_of(ranks.rank, ranks.world, self.num_samples, setting.micro_batch)
        self.loader = DataLoader(
            data,
            batch_sampler=self.share.batches,
            num_workers=setting.loader_workers,
            pin_memory=ranks.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # otherwise it would use the training's random numbers
        )
        self.memory_format = torch.channels_last if setting.channels_last else torch.preserve_format

    def evaluate(self, engine: Engine, model: nn.Module) -> Evaluation:
        """Evaluate `model`, which `engine` trains, with the engine's forward pass; the same result on every rank."""
        begun = time.perf_counter()
        with torch.no_grad(), _evaluating(model), _buffers_of_rank_0(model, self.ranks):
            own = {name: float(value) for name, value in self._sums(engine).items()}
        everyone = self.ranks.gather((time.perf_counter() - begun, own))
        names = dict.fromkeys(name for _, sums in everyone for name in sums)
        sums = {name: sum(sums.get(name, 0.0) for _, sums in everyone) for name in names}
        assert sums["samples"] == self.num_samples, (sums["samples"], self.num_samples)
        return Evaluation(
            seconds=max(seconds for seconds, _ in everyone),
            num_samples=self.num_samples,
            **self.task.results(sums),  # type: ignore[arg-type]
        )

    def _sums(self, engine: Engine) -> dict[str, torch.Tensor]:
        """This rank's sums over the samples that count, float64."""
        device = self.ranks.device
        sums: dict[str, torch.Tensor] = {}
        forward = partial(engine.forward, last=True)
        for batch, counted in zip(self.loader, self.share.counted, strict=True):
            scores = self.task.score(forward, move(batch, device, self.memory_format), counted)
            if counted:
                scores = {**scores, "samples": torch.tensor(counted, device=device)}
                sums = {name: sums.get(name, 0) + value.double() for name, value in scores.items()}
        return sums


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and restore its mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _buffers_of_rank_0(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Use rank 0's floating-point buffers on every rank, and restore each rank's own afterwards."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    own = [buffer.clone() for buffer in buffers]
    if ranks.world > 1:
        for buffer in buffers:
            dist.broadcast(buffer, src=0)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)
