"""The speed of the links between a leg's ranks: collectives by size, and copies between host and accelerator.

Measured beside a profile, outside everything that is timed, through the engines' process group. The `busbw` of an
all-reduce is bytes x 2 (n - 1) / n over the seconds, that of an all-gather or a reduce-scatter bytes x (n - 1) / n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

from raybench.machine.links import LinkRate, Links
from raybench.training.failures import describe, print_traceback
from raybench.training.node.network import timed
from raybench.training.ranks import Ranks

BYTES: Final = (1 << 16, 1 << 20, 1 << 25)  # a layer's gradient, a small network's, a bucket of DDP
_CALLS: Final = 3  # the fastest counts: slower ones were disturbed


def measured_links(ranks: Ranks) -> Links | None:
    """The rates of the links; None in one process without an accelerator. Every rank calls it and gets the same."""
    if ranks.world == 1 and ranks.device.type != "cuda":
        return None
    try:
        room: _Buffers | None = _buffers(ranks)
    except (RuntimeError, MemoryError):
        print_traceback()
        room = None
    if any(ranks.gather(room is None)):  # a single rank in a collective would wait for the others
        return Links(missing=["links: no room for the buffers"])
    assert room is not None
    links = Links()
    for name, (call, share) in _calls(room, ranks).items():
        try:
            links.rates[name] = [_measured(call, size, share, ranks) for size in BYTES]
        except RuntimeError as error:  # the backend lacks this call, on every rank alike
            links.missing.append(f"links: {name}: {describe(error)}")
    return links


@dataclass(frozen=True)
class _Buffers:
    whole: torch.Tensor
    part: torch.Tensor
    host: torch.Tensor | None  # pinned; None without an accelerator


def _buffers(ranks: Ranks) -> _Buffers:
    largest = max(BYTES) // 4
    pinned = ranks.device.type == "cuda"
    return _Buffers(
        torch.ones(largest, device=ranks.device),
        torch.ones(largest // ranks.world, device=ranks.device),
        torch.ones(largest, pin_memory=True) if pinned else None,
    )


def _calls(room: _Buffers, ranks: Ranks) -> dict[str, tuple[Callable[[int], object], float]]:
    """The calls to measure: each for a number of elements, with the share of its bytes that crosses the link."""
    whole, part, host, world = room.whole, room.part, room.host, ranks.world
    calls: dict[str, tuple[Callable[[int], object], float]] = {}
    if world > 1:
        share = (world - 1) / world
        calls |= {
            "all_reduce": (lambda n: dist.all_reduce(whole[:n], op=dist.ReduceOp.MAX), 2 * share),
            "all_gather": (lambda n: dist.all_gather_into_tensor(whole[: n - n % world], part[: n // world]), share),
            "reduce_scatter": (
                lambda n: dist.reduce_scatter_tensor(part[: n // world], whole[: n - n % world], op=dist.ReduceOp.MAX),
                share,
            ),
        }
    if host is not None:
        calls |= {
            "to_device": (lambda n: whole[:n].copy_(host[:n], non_blocking=True), 1.0),
            "from_device": (lambda n: host[:n].copy_(whole[:n], non_blocking=True), 1.0),
        }
    return calls


def _measured(call: Callable[[int], object], size: int, share: float, ranks: Ranks) -> LinkRate:
    call(size // 4)
    seconds = min(timed(lambda: call(size // 4), 1, ranks) for _ in range(_CALLS))
    return LinkRate(size, seconds, size * share / seconds)
