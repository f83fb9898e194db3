"""Stopping a sweep by a signal: the first request lets the running legs finish, the second ends it now.

Each Ctrl-C is a request. SIGTERM and SIGHUP (a closed terminal) end the sweep now, because their sender usually kills
the process a few seconds later. Either way the ledger keeps what it has.
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
    """What the signals so far ask for. Plain attributes: a signal handler could deadlock on an event's lock."""

    def __init__(self) -> None:
        self.requested = False
        self.ended_by: int | None = None  # the signal that ended the sweep at once

    def _handle(self, signal_number: int, _frame: FrameType | None) -> None:
        if self.ended_by is not None:
            return  # already ending; a second exception would leave processes behind
        if self.requested or signal_number in _NOW:
            self.ended_by = signal_number
            raise StoppedNow(signal_number)
        self.requested = True


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle the signals, in the main thread; a signal that was ignored (nohup) stays ignored.

    Inside, the first Ctrl-C only sets `requested`; the second, SIGTERM and SIGHUP raise StoppedNow.
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
        raise StoppedNow(interruption.ended_by) from None  # Ray turns it into a plain KeyboardInterrupt
    finally:
        for number in taken:
            signal.signal(number, before[number])
