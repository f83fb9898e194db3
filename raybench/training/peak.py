"""The peak of a device as it can be measured: what one large matrix product reaches on it."""

from __future__ import annotations

import time

import torch

from raybench.training.ranks import Ranks

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cpu": 1024, "cuda": 8192}
_SECONDS = 0.2


def measured_tflops(ranks: Ranks, precision: str) -> float:
    """10^12 operations a second that each rank reaches while all of them multiply: the best product, the slowest rank.

    Every rank calls it, before the legs of its group.
    """
    side = _SIDE.get(ranks.device.type, 1024)
    left, right = (torch.randn(side, side, device=ranks.device).to(_DTYPES.get(precision)) for _ in range(2))
    ranks.barrier()
    best, begun = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < _SECONDS:
        ranks.settle()
        start = time.perf_counter()
        torch.mm(left, right)
        ranks.settle()
        best = min(best, time.perf_counter() - start)
    del left, right
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()  # the first leg's peak of reserved memory is its own
    slowest: float = min(ranks.gather(2 * side**3 / best / 1e12))
    return slowest
