"""What a user can put right: one exception type that every command turns into one line and exit code 2."""


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and what would be right."""


class NothingMeasured(RuntimeError):
    """A sweep that ended without a single measurement: one line, exit code 1."""
