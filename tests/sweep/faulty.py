"""A linear model that fails on request: a test copies this file into the working tree of its sweep."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

CHUNK = 16 * 2**20  # bytes


def fill_memory(limit: int) -> None:
    """Take memory until there is no more; `limit` bytes of it at most, of address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit, hard))
    try:
        held = []
        while True:
            held.append(torch.zeros(CHUNK, dtype=torch.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fill_cgroup(processes: str) -> None:
    """Go into a control group, and take more memory than it may have: the kernel ends this process."""
    Path(processes).write_text(str(os.getpid()))
    held = [torch.ones(CHUNK, dtype=torch.uint8) for _ in range(64)]
    raise RuntimeError(f"{len(held) * CHUNK} bytes fitted into {processes}")


class Faulty(torch.nn.Module):
    """Does `fault` in its third forward pass, on `only_rank` or on all; `file` is what the fault needs of one."""

    def __init__(self, inputs: int, classes: int, fault: str, only_rank: int | None, file: str) -> None:
        super().__init__()
        self.fault, self.only_rank, self.file, self.passes = fault, only_rank, file, 0
        self.apart = dist.new_group(backend="gloo") if fault == "skip" else None
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        logits: torch.Tensor = self.net(images)
        if self.passes >= 3 and self.only_rank in (None, dist.get_rank()):
            if self.fault == "raise" and not (self.file and Path(self.file).exists()):
                raise RuntimeError("planted trouble")
            if self.fault == "tell":
                raise RuntimeError("told: " + ", ".join(os.environ[name] for name in self.file.split(",")))
            if self.fault == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)
            if self.fault == "exit":
                os._exit(7)
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "sleep":
                time.sleep(3600)
            if self.fault == "skip":  # a collective that the other ranks never come to
                dist.barrier(group=self.apart)
            if self.fault == "memory":
                fill_memory(256 * 2**20)
            if self.fault == "cgroup":
                fill_cgroup(self.file)
            if self.fault == "nan":
                logits = logits * float("nan")
            if self.fault == "detach":
                logits = logits.detach().requires_grad_()
        return logits


def net(
    num_classes: int, in_chans: int, image_size: int, fault: str = "", only_rank: int | None = None, file: str = ""
) -> Faulty:
    return Faulty(in_chans * image_size**2, num_classes, fault, only_rank, file)
