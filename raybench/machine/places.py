"""Where the ranks of a group of processes run: what each says of its place, and what of it a ledger's row keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter


@dataclass(frozen=True)
class RankPlace:
    """A rank's node, as people name it, and the UUIDs of its GPUs."""

    node: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankReport:
    """What a rank says of where it is before anything runs there."""

    place: RankPlace
    node_id: str  # Ray's
    gpu: str | None = None  # the model
    foreign_processes: int | None = None  # on its GPU; None where that is not known
    versions: Mapping[str, str | None] = field(default_factory=dict)  # that must be equal on all nodes; {}: not told


Placement = Sequence[RankPlace]  # of a group, by rank
_PLACEMENT = TypeAdapter(tuple[RankPlace, ...])


def read_placement(text: str | None) -> Placement | None:
    """The placement that a ledger's row holds as JSON; None where it holds none."""
    return _PLACEMENT.validate_json(text) if text else None


def machines(placement: Placement) -> list[tuple[str, tuple[str, ...]]]:
    """The machines and GPUs of a placement: the same whichever rank sits where."""
    return sorted((place.node, place.gpus) for place in placement)
