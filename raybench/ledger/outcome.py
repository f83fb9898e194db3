"""The two outcomes of a leg, as the workers hand them over: a measurement or a failure.

No torch, ray or pyarrow here: a worker builds an outcome, the recorder turns it into a ledger row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from raybench.ledger.quantities import Circumstances, Measurement

__all__ = ["FAILURE_KINDS", "Failure", "FailureKind", "Measurement", "Outcome", "from_dict", "machines", "to_dict"]

FailureKind = Literal["out_of_memory", "not_finite", "timeout", "crashed", "unsupported", "invalid_config", "error"]
FAILURE_KINDS: tuple[str, ...] = get_args(FailureKind)


@dataclass(frozen=True)
class Failure(Circumstances):
    """Why one leg has no measurement."""

    kind: FailureKind
    message: str

    def __post_init__(self) -> None:
        assert self.kind in FAILURE_KINDS, self.kind
        super().__post_init__()


Outcome = Measurement | Failure


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """A JSON-able form that `from_dict` reads back."""
    return {"status": "ok" if isinstance(outcome, Measurement) else "failed", **asdict(outcome)}


def from_dict(values: dict[str, Any]) -> Outcome:
    """The outcome that `to_dict` wrote."""
    fields = dict(values)
    return Measurement(**fields) if fields.pop("status") == "ok" else Failure(**fields)


def machines(placement: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """The machines and GPUs of a placement: the same whichever rank sits where."""
    return sorted((place["node"], tuple(place["gpus"])) for place in placement)
