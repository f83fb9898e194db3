"""Runs one command and leaves nothing of it behind: a separate process between a worker and a user's script.

    python -m raybench.training.command      with a request as one line of JSON on standard input

Every process that the command starts, in whatever session, is adopted by this process when its parent ends (Linux: a
child subreaper). All are killed when the command ends, when its time is up, or when the worker is gone, which closes
standard input. The answer is one line of JSON on standard output. Uses only the standard library and psutil.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from raybench.machine.oom import oom_kills

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_TAIL_BYTES = 1 << 16  # of the command's output, kept for a failure's message
_MOST_FORWARDED = 1 << 23  # of its output, passed on to the worker's log
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """What to run: words without a shell, the whole environment, the folder, and the time limit."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    timeout_seconds: float


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    seconds: float = 0.0
    exit_code: int | None = None  # negative: the signal that ended it; None where it was ended
    problem: str = ""  # why it could not be started
    timed_out: bool = False
    peak_bytes: int = 0  # resident, of its largest process
    oom_kills: int = 0  # meanwhile; some may not be ours
    left_behind: int = 0  # processes that outlived it and were killed
    tail: str = ""  # the end of its output


def main() -> int:
    """Answer one request. Returns 0."""
    request = Request(**json.loads(sys.stdin.buffer.readline()))
    be_reaper()
    print(json.dumps(asdict(run(request, sys.stdin.fileno()))), flush=True)
    return 0


def run(request: Request, lifeline: int) -> Ended:
    """Run the command to its end; `lifeline` is a descriptor that closes when nobody waits for the answer any more."""
    kills, begun = oom_kills(), time.monotonic()
    try:
        process = subprocess.Popen(
            request.words, env=request.environment, cwd=request.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return Ended(problem=f"{getattr(error, 'strerror', None) or error}: {getattr(error, 'filename', None) or ''}")
    assert process.stdout is not None
    output = _Output(process.stdout.fileno())
    timed_out = not _wait(process, output, lifeline, begun + request.timeout_seconds)
    seconds = time.monotonic() - begun
    exit_code = None if timed_out else process.wait()
    left_behind = kill_descendants() - int(timed_out)
    process.wait()
    output.read_what_is_there()
    return Ended(
        seconds=seconds,
        exit_code=exit_code,
        timed_out=timed_out,
        peak_bytes=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        oom_kills=oom_kills() - kills,
        left_behind=max(0, left_behind),
        tail=output.tail(),
    )


def _wait(process: subprocess.Popen[bytes], output: _Output, lifeline: int, deadline: float) -> bool:
    """Whether the command ended in time. It blocks in the kernel and uses no CPU: the machine is being measured."""
    ended = os.pidfd_open(process.pid)
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            wanted = [ended, lifeline, *([output.descriptor] if output.open else [])]
            ready = select.select(wanted, [], [], left)[0]
            if output.descriptor in ready:
                output.read()
            if ended in ready:
                return True
            if lifeline in ready and not os.read(lifeline, 4096):
                return False
    finally:
        os.close(ended)


class _Output:
    """A command's output: keeps its last bytes, passes its first ones on to standard error."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.open = descriptor, True
        self._kept = b""
        self._forwarded = 0
        os.set_blocking(descriptor, False)

    def read(self) -> bool:
        """Read what is available. Returns whether there was anything."""
        try:
            data = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return False
        self.open = bool(data)
        self._kept = (self._kept + data)[-_TAIL_BYTES:]
        if self._forwarded < _MOST_FORWARDED:
            self._forwarded += len(data)
            shown = "".join(c for c in data.decode("utf-8", "replace") if c.isprintable() or c == "\n")
            with contextlib.suppress(OSError):
                os.write(2, shown.replace("\ufffd", "").encode())
        return bool(data)

    def read_what_is_there(self) -> None:
        """Read the rest, without waiting for other processes that hold the pipe open."""
        for _ in range(_TAIL_BYTES):
            if not self.open or not self.read():
                return

    def tail(self) -> str:
        """The end of the output as text."""
        return self._kept.decode("utf-8", errors="replace")


def be_reaper() -> None:
    """Make this process adopt all its descendants when their parents end."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Make the kernel end this process when its parent ends, for whatever reason."""
    with contextlib.suppress(OSError, AttributeError):  # systems other than Linux
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def kill_descendants() -> int:
    """Kill and wait for all descendants, repeatedly, until none is left. Returns how many there were."""
    own, killed, deadline = psutil.Process(), set(), time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        alive = [child for child in own.children(recursive=True) if _runs(child)]
        for child in alive:
            with contextlib.suppress(psutil.Error):
                child.suspend()  # so that it cannot fork while the others are killed
        for child in alive:
            with contextlib.suppress(psutil.Error):
                child.kill()
                killed.add(child.pid)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not alive:
            break
        time.sleep(0.02)
    return len(killed)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def signal_name(number: int) -> str:
    """The name of a signal, as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def asked(request: Request, grace_seconds: float = 60.0) -> Ended:
    """Run a request in a separate process and wait for the answer."""
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "raybench.training.command"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    try:
        supervisor.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
        supervisor.stdin.flush()
        line = supervisor.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line.strip() else {"problem": "its supervising process died"}
        return Ended(**answer)
    finally:
        supervisor.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(timeout=grace_seconds)
        supervisor.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
