"""raybench's exceptions, as one tree.

A command turns a `UserError`, `NothingMeasured` or `Interrupted` into one line and an exit code. A `LegError` ends a
leg and becomes a failure in the ledger (`raybench.training.failures` decides its kind). Exceptions that cross Ray's
processes are recognized by type, so all of them can be imported without ray and torch.
"""

from __future__ import annotations

from typing import Literal

FailureKind = Literal["out_of_memory", "not_finite", "timeout", "crashed", "unsupported", "invalid_config", "error"]


class RaybenchError(Exception):
    """Base class of raybench's exceptions."""


class UserError(RaybenchError, ValueError):
    """Bad input: the message is one line that says what is wrong, where, and how to fix it."""


class StorageError(UserError):
    """A failed operation of a store, in one line without secrets. `passing`: it may succeed later."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class DamagedFile(UserError):
    """A `*.parquet` file that is truncated or damaged, or does not belong to a ledger."""


class NothingMeasured(RaybenchError):
    """A sweep that ended without a single measurement: one line, exit code 1."""


class Interrupted(RaybenchError):
    """A command stopped before its end: one line that says what is kept and how to continue."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrialGivenUp(RaybenchError):
    """A problem of the cluster, not of a leg: no nodes, or a group that did not start, was misplaced or lost."""


class LegError(RaybenchError):
    """Why a leg has no measurement."""


class BadData(LegError, ValueError):
    """Data that are missing, damaged or not what the setting needs; the message is one line and says what to do."""


class InvalidConfig(LegError):
    """The engine's library rejected the configuration; the message has its text."""


class Unsupported(LegError):
    """The engine, device or model cannot do what was asked; the message carries the reason."""


class NotFinite(LegError):
    """A loss that is nan or infinite."""


class NotReadable(RaybenchError):
    """A value in a leg cannot be read; this costs the fact but never the leg."""


class NothingTrained(LegError):
    """The steps ran, but gradients were zero or no parameter changed."""


class RanksParted(LegError):
    """The other ranks did not come to the meeting point: they hang in the leg, or are gone."""


class ProbeFailed(LegError):
    """A probe failed for a reason other than memory, so no batch can be found."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LegDied(LegError):
    """A leg failed on one rank alone, while the others hang in it: the group must end."""

    def __init__(self, leg_id: str, kind: FailureKind, message: str) -> None:
        super().__init__(leg_id, kind, message)
        self.leg_id, self.kind, self.message = leg_id, kind, message

    def __str__(self) -> str:
        return self.message
