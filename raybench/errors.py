"""Every exception of raybench's own, as one tree.

A command turns a `UserError`, `NothingMeasured` or `Interrupted` into one line and an exit code. A `LegError` ends a
leg and becomes a failure in the ledger (`raybench.training.failures` says of which kind). What crosses between
processes of Ray's is recognized by its type, so all of them are importable without ray and torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raybench.ledger.outcome import FailureKind


class RaybenchError(Exception):
    """Whatever raybench itself raises."""


class UserError(RaybenchError, ValueError):
    """Bad input: the message is one line that says what is wrong, where, and what would be right."""


class StorageError(UserError):
    """What a store does not do, in one line without secrets. `passing`: later it may."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class DamagedFile(UserError):
    """A `*.parquet` file that is torn or damaged, or that is none of a ledger's."""


class NothingMeasured(RaybenchError):
    """A sweep that ended without a single measurement: one line, exit code 1."""


class Interrupted(RaybenchError):
    """A command that was stopped before its end: one line that says what is kept and how to go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrialGivenUp(RaybenchError):
    """The cluster's trouble, not a leg's: no nodes, a group that would not start, was misplaced, or lost too often."""


class LegError(RaybenchError):
    """Why a leg has no measurement."""


class BadData(LegError, ValueError):
    """Data that are missing, damaged or not what the setting needs; the message is one line and says what to do."""


class InvalidConfig(LegError):
    """The engine's library refused the configuration; the message carries its words."""


class Unsupported(LegError):
    """The engine, device or model cannot do what was asked; the message carries the reason."""


class NotFinite(LegError):
    """A loss that is no number, or infinite."""


class NotReadable(RaybenchError):
    """What raybench would look at in a leg is not there to see, which costs the fact and never the leg."""


class NothingTrained(LegError):
    """The steps ran, but gradients were zero or no parameter changed."""


class RanksParted(LegError):
    """The other ranks did not come to the meeting point: they hang in the leg, or are gone."""


class ProbeFailed(LegError):
    """A probe failed of something else than memory, so that no batch can be found."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LegDied(LegError):
    """A leg failed on one rank alone, and the others hang in it: the group must end."""

    def __init__(self, leg_id: str, kind: FailureKind, message: str) -> None:
        super().__init__(leg_id, kind, message)
        self.leg_id, self.kind, self.message = leg_id, kind, message

    def __str__(self) -> str:
        return self.message
