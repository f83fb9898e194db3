"""Where the ranks of a group of processes run: what each reports, and what a ledger's row keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter


@dataclass(frozen=True)
class RankPlace:
    """A rank's node, by its name for people, and the UUIDs of its GPUs."""

    node: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankReport:
    """A rank's report of where it is, before anything runs there."""

    place: RankPlace
    node_id: str  # Ray's
    gpu: str | None = None  # the model
    foreign_processes: int | None = None  # on its GPU; None where unknown
    versions: Mapping[str, str | None] = field(default_factory=dict)  # must be equal on all nodes; {}: not reported


Placement = Sequence[RankPlace]  # of a group, by rank
_PLACEMENT = TypeAdapter(tuple[RankPlace, ...])


def read_placement(text: str | None) -> Placement | None:
    """The placement in a ledger's row, from JSON; None where it has none."""
    return _PLACEMENT.validate_json(text) if text else None


def machines(placement: Placement) -> list[tuple[str, tuple[str, ...]]]:
    """The machines and GPUs of a placement, whatever the order of ranks."""
    return sorted((place.node, place.gpus) for place in placement)
