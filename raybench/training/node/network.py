"""The network between the nodes of a trial: the interface used, and the rate that an all-reduce reaches.

Measured once per group of processes, before its first leg and outside everything that is timed, through the engines'
process group. The `busbw` of an all-reduce among n ranks is algbw x 2 (n - 1) / n, which does not depend on n.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Final

import psutil
import torch
import torch.distributed as dist

from raybench.machine.links import AllReduce, Interface, Network
from raybench.training.ranks import Ranks

_BYTES: Final = (1 << 20, 1 << 25)  # roughly the gradients of a small network, and a bucket of DDP
_SECONDS: Final = 1.0  # roughly, for each size
_MOST_CALLS: Final = 20


def measured_network(ranks: Ranks) -> Network:
    """How the ranks are connected; every rank calls it and gets the same."""
    backend = str(dist.get_backend())
    interfaces = ranks.gather(interface_of_this_node(backend))
    all_reduce = [_all_reduce(size, ranks) for size in _BYTES]
    return Network(backend, ranks.world, list(dict.fromkeys(interfaces)), all_reduce)


def _all_reduce(size: int, ranks: Ranks) -> AllReduce:
    buffer = torch.ones(size // 4, dtype=torch.float32, device=ranks.device)

    def call() -> None:
        dist.all_reduce(buffer, op=dist.ReduceOp.MAX)  # MAX keeps ones at one in every call

    timed(call, 2, ranks)
    first = timed(call, 1, ranks)
    calls = max(3, min(_MOST_CALLS, int(_SECONDS / max(first, 1e-6))))
    seconds = timed(call, calls, ranks) / calls
    algbw = size / seconds
    return AllReduce(size, calls, seconds, algbw, algbw * 2 * (ranks.world - 1) / ranks.world)


def timed(call: Callable[[], object], calls: int, ranks: Ranks) -> float:
    """Seconds of some back-to-back calls on the slowest rank; every rank calls it and gets the same."""
    ranks.barrier()
    ranks.settle()
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    ranks.settle()
    return float(max(ranks.gather(time.perf_counter() - begun)))


def interface_of_this_node(backend: str) -> Interface:
    """The interface by which this node reaches the first rank's: the backend's variable, else the route's."""
    variable = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
    address = _route_to(os.environ.get("MASTER_ADDR", "127.0.0.1"))
    named = os.environ.get(variable)
    interface = named or interface_with(address)
    if named is not None and named in psutil.net_if_addrs():
        address = _address_of(named)
    stats = psutil.net_if_stats().get(interface or "")
    return Interface(
        node=socket.gethostname(),
        interface=interface,
        address=address,
        chosen_by=variable if named else "route",
        megabits_per_second=stats.speed if stats is not None and stats.speed > 0 else None,
    )


def interface_with(address: str | None) -> str | None:
    """The name of this machine's interface with an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in addresses):
            return str(name)
    return None


def _address_of(interface: str) -> str | None:
    families = (socket.AF_INET, socket.AF_INET6)
    addresses = [one for one in psutil.net_if_addrs()[interface] if one.family in families]
    return min(addresses, key=lambda one: families.index(one.family)).address if addresses else None


def _route_to(host: str) -> str | None:
    """This machine's source address for packets to the host; nothing is sent."""
    try:
        family, *_, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return None
