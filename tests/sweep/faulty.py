"""A linear model that fails on request: a test copies this file into the working tree of its sweep."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist


class Faulty(torch.nn.Module):
    """Does `fault` in its third forward pass, on `only_rank` or on all."""

    def __init__(self, inputs: int, classes: int, fault: str, only_rank: int | None) -> None:
        super().__init__()
        self.fault, self.only_rank, self.passes = fault, only_rank, 0
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        logits: torch.Tensor = self.net(images)
        if self.passes >= 3 and self.only_rank in (None, dist.get_rank()):
            if self.fault == "raise":
                raise RuntimeError("planted trouble")
            if self.fault == "exit":
                os._exit(7)
            if self.fault == "sleep":
                time.sleep(3600)
            if self.fault == "memory":
                raise torch.OutOfMemoryError("planted: out of memory")
            if self.fault == "nan":
                logits = logits * float("nan")
            if self.fault == "detach":
                logits = logits.detach().requires_grad_()
        return logits


def net(num_classes: int, in_chans: int, image_size: int, fault: str = "", only_rank: int | None = None) -> Faulty:
    return Faulty(in_chans * image_size**2, num_classes, fault, only_rank)
