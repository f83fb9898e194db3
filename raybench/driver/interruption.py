"""Stopping a sweep by a signal: once, and the running legs are finished; twice, and it ends now.

Ctrl-C asks for the first, Ctrl-C again for the second. SIGTERM and SIGHUP (a closed terminal) end it now: who sends
them waits a few seconds before it kills. Either way the ledger keeps what it has.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NOW = (signal.SIGTERM, signal.SIGHUP)


class StoppedNow(KeyboardInterrupt):
    """The sweep is to end at once. `exit_code` is the shell's: 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interruption:
    """What the signals so far ask for. A plain attribute: an event's lock could be held where the handler runs."""

    def __init__(self) -> None:
        self.requested = False
        self.ended_by: int | None = None  # the signal that ended it at once

    def _handle(self, signal_number: int, _frame: FrameType | None) -> None:
        if self.ended_by is not None:
            return  # it is being done; a second exception would leave processes behind
        if self.requested or signal_number in _NOW:
            self.ended_by = signal_number
            raise StoppedNow(signal_number)
        self.requested = True


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Take the signals over, in the main thread; a signal that was ignored (nohup) stays ignored.

    Inside, the first Ctrl-C only sets `requested`; the second, and SIGTERM and SIGHUP, raise StoppedNow.
    """
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_NOW)}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, interruption._handle)
    try:
        yield interruption
    except KeyboardInterrupt:
        if interruption.ended_by is None:
            raise
        raise StoppedNow(interruption.ended_by) from None  # Ray makes a plain one of what is raised in its calls
    finally:
        for number in taken:
            signal.signal(number, before[number])
