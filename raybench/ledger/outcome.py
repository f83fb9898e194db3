"""The two outcomes of a leg that workers hand over: a measurement or a failure.

No torch, ray or pyarrow here: a worker builds an outcome, the recorder makes a ledger row of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from raybench.errors import FailureKind
from raybench.ledger.quantities import Circumstances, Measurement

__all__ = ["FAILURE_KINDS", "Failure", "Measurement", "Outcome"]

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
