"""A device's measured peaks: the rates of one large matrix product and of one large copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from raybench.training.ranks import Ranks

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 2**26, "cuda": 2**28}  # bytes
_SECONDS = 0.1


def measured_tflops(ranks: Ranks, precision: str) -> float:
    """The rate of each rank, in 10^12 operations a second, while all multiply: the best product, the slowest rank.

    Every rank calls it, before the legs of its group.
    """
    side = _SIDE.get(ranks.device.type, 1024)
    shape, dtype = (side, side), _DTYPES.get(precision)
    best = _best_seconds(torch.mm, [torch.randn(shape, device=ranks.device).to(dtype) for _ in range(2)], ranks)
    rates: list[float] = ranks.gather(2 * side**3 / best / 1e12)
    return min(rates)


def measured_copy(ranks: Ranks) -> float:
    """Bytes a second that each rank reads and writes while all copy: the best copy, the slowest rank.

    The buffers are larger than most caches. Every rank calls it, before the legs of its group.
    """
    size = _COPIED.get(ranks.device.type, _COPIED["cpu"])
    best = _best_seconds(torch.Tensor.copy_, [torch.ones(size // 4, device=ranks.device) for _ in range(2)], ranks)
    rates: list[float] = ranks.gather(2 * size / best)
    return min(rates)


def _best_seconds(work: Callable[..., object], operands: list[torch.Tensor], ranks: Ranks) -> float:
    """The fastest run of some work within `_SECONDS`, after one that loads its kernel; frees the operands."""
    work(*operands)
    ranks.settle()
    ranks.barrier()
    best, begun = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < _SECONDS:
        ranks.settle()
        start = time.perf_counter()
        work(*operands)
        ranks.settle()
        best = min(best, time.perf_counter() - start)
    operands.clear()
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()  # so that the first leg's peak of reserved memory is its own
    return best
