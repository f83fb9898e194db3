"""A real terminal for tests: a command on a pseudo-terminal of its own, what it shows, keys pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")
CTRL_C = "\x03"


class Terminal:
    """Runs a command with a pseudo-terminal as its controlling one, so that Ctrl-C reaches its whole process group."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str], columns: int = 80) -> None:
        self._own, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        kept = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *arguments],
            cwd=folder, env={**kept, "TERM": "xterm-256color"}, stdin=inner, stdout=inner, stderr=inner,
        )  # fmt: skip
        os.close(inner)
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.write(self._own, CTRL_C.encode() * 2)
            self.process.kill()
        self.process.wait()
        os.close(self._own)

    @property
    def text(self) -> str:
        """All that was written so far, without escape sequences."""
        return _ESCAPES.sub("", self._text)

    def press(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def until(self, pattern: str, timeout: float = 300) -> str:
        """Wait until what is written matches; returns the match."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.text)
            if found is not None:
                return found[0]
            ended = not self._read()
            assert not ended, f"ended before {pattern!r} was shown:\n{self.text}"
            assert time.monotonic() < deadline, f"{pattern!r} was not shown:\n{self.text}"

    def until_legs(self, fewest: int, of: int) -> None:
        """Wait until the bar shows so many legs or more: drawn once a second, it may never show a given number."""
        shown = "|".join(str(number) for number in range(fewest, of + 1))
        self.until(rf"\b(?:{shown})/{of}\b")

    def end(self, timeout: float = 300) -> int:
        """Wait for the command's end, with what it still writes; returns its exit code."""
        deadline = time.monotonic() + timeout
        while self._read():
            assert time.monotonic() < deadline, f"no end:\n{self.text}"
        return self.process.wait(timeout=30)

    def _read(self) -> bool:
        """Take in what is there, waiting a little; False once the command has ended."""
        if not select.select([self._own], [], [], 0.1)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._own, 65536)
        except OSError:  # Linux says so where nobody holds the other side any more
            return False
        self._text += data.decode(errors="replace")
        return bool(data)
