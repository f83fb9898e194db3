"""What joins the ranks of a group, as measured: the network between nodes, and the rates of links by size.

Bandwidths are those of nccl-tests (doc/PERFORMANCE.md): `algbw` is the buffer's bytes over the seconds, `busbw` the
bytes that each link carried, in bytes a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interface:
    """By which interface a node reaches the first rank's."""

    node: str
    interface: str | None
    address: str | None
    chosen_by: str  # a variable, or `route`
    megabits_per_second: int | None  # None where the system does not say


@dataclass(frozen=True)
class AllReduce:
    """What an all-reduce of one size gets of the network."""

    bytes: int
    calls: int  # back to back
    seconds: float  # the mean of them, of the slowest rank
    algbw: float
    busbw: float


@dataclass(frozen=True)
class Network:
    """How the ranks are joined."""

    backend: str  # nccl or gloo
    world: int
    interfaces: list[Interface]  # of each node
    all_reduce: list[AllReduce]


@dataclass(frozen=True)
class LinkRate:
    """What a collective, or a copy, of one size carried."""

    bytes: int  # of the whole buffer
    seconds: float
    busbw: float


@dataclass(frozen=True)
class Links:
    """Rates by size, by name of a collective or `to_device` and `from_device`; and what could not be measured."""

    rates: dict[str, list[LinkRate]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
