"""How a command ends early: exceptions that every command turns into one line and an exit code."""


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and what would be right."""


class StorageError(UserError):
    """What a store does not do, in one line without secrets. `passing`: later it may."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class NothingMeasured(RuntimeError):
    """A sweep that ended without a single measurement: one line, exit code 1."""


class Interrupted(RuntimeError):
    """A command that was stopped before its end: one line that says what is kept and how to go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
