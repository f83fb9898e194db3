"""Evaluation on the test split, shared by the ranks: every sample counts exactly once, in every arm the same.

A rank takes every `world`-th sample. All ranks run equally many forward passes of one shape, because a forward pass
may be collective (FSDP, ZeRO-3, DDP with buffers); what fills a rank's last batches up is not counted. What is
evaluated is the model that a checkpoint would hold: rank 0's buffers (BatchNorm's running statistics) on every rank,
each of which gets its own back afterwards, so that evaluating changes nothing in the training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from raybench.declare.datasets import facts_of
from raybench.declare.setting import Setting
from raybench.training.datasets import evaluation_data, num_samples
from raybench.training.engines import Engine
from raybench.training.ranks import Ranks
from raybench.training.torchvision_ops import declare_missing


@dataclass(frozen=True)
class Evaluation:
    """What the test split says of a model; accuracies are fractions."""

    seconds: float  # of the slowest rank
    num_samples: int  # over all ranks
    loss: float  # mean cross entropy
    accuracy: float  # top-1
    accuracy_top5: float | None  # None where there are no more than five classes


@dataclass(frozen=True)
class Share:
    """A rank's part of the test split: indices batch by batch, and how many of each batch count."""

    batches: list[list[int]]
    counted: list[int]


def share_of(rank: int, world: int, samples: int, batch_size: int) -> Share:
    """The share of a rank: every `world`-th sample, in batches of one size, as many batches as any rank has."""
    own = list(range(rank, samples, world))
    num_batches = -(-len(range(0, samples, world)) // batch_size)  # rank 0 has most
    padded = own + [0] * (num_batches * batch_size - len(own))
    starts = range(0, len(padded), batch_size)
    return Share(
        [padded[start : start + batch_size] for start in starts],
        [max(0, min(batch_size, len(own) - start)) for start in starts],
    )


class Evaluator:
    """Evaluates a model that an engine trains, as often as wanted. Every rank calls `evaluate` together."""

    def __init__(self, setting: Setting, ranks: Ranks) -> None:
        declare_missing()  # torchmetrics imports torchvision
        from torchmetrics.functional.classification import multiclass_stat_scores

        data = evaluation_data(setting)
        self._stat_scores = multiclass_stat_scores
        self.ranks = ranks
        self.classes = facts_of(setting.dataset, setting.data_root).classes
        self.num_samples = num_samples(data)
        self.share = share_of(ranks.rank, ranks.world, self.num_samples, setting.micro_batch)
        self.loader = DataLoader(
            data,
            batch_sampler=self.share.batches,
            num_workers=setting.loader_workers,
            pin_memory=ranks.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # else it would draw from the training's random numbers
        )
        self.memory_format = torch.channels_last if setting.channels_last else torch.preserve_format

    def evaluate(self, engine: Engine, model: nn.Module) -> Evaluation:
        """Evaluate `model`, which `engine` trains, by the engine's own forward pass; the same result on every rank."""
        begun = time.perf_counter()
        with torch.no_grad(), _evaluating(model), _buffers_of_rank_0(model, self.ranks):
            counts = self._count(engine).tolist()
        everyone = self.ranks.gather((time.perf_counter() - begun, counts))
        loss, top1, top5, samples = (sum(values) for values in zip(*(c for _, c in everyone), strict=True))
        assert samples == self.num_samples, (samples, self.num_samples)
        return Evaluation(
            seconds=max(seconds for seconds, _ in everyone),
            num_samples=int(samples),
            loss=loss / samples,
            accuracy=top1 / samples,
            accuracy_top5=top5 / samples if self.classes > 5 else None,
        )

    def _count(self, engine: Engine) -> torch.Tensor:
        """This rank's sums: (loss, right at first, right among five, samples), float64."""
        device = self.ranks.device
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        for (images, labels), counted in zip(self.loader, self.share.counted, strict=True):
            images = images.to(device, non_blocking=True, memory_format=self.memory_format)
            logits = engine.forward(images, last=True).float()[:counted]
            labels = labels.to(device, non_blocking=True)[:counted]
            if counted:
                sums += torch.stack(
                    [
                        cross_entropy(logits, labels, reduction="sum").double(),
                        self._right(logits, labels, 1),
                        self._right(logits, labels, min(5, self.classes)),
                        torch.tensor(counted, dtype=torch.float64, device=device),
                    ]
                )
        return sums

    def _right(self, logits: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
        """How many labels are among the k largest logits."""
        scores = self._stat_scores(logits, labels, self.classes, average="micro", top_k=k, validate_args=False)
        return scores[0].double()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and then in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _buffers_of_rank_0(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Rank 0's floating-point buffers on every rank, and then each rank's own."""
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
