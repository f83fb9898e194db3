"""Finding the processes of one sweep and of the Ray that it started, by a variable that they all inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

MARK = "RAYBENCH_TEST_MARK"


def processes_of(mark: str) -> dict[int, str]:
    """Process ids and command lines of the processes that inherited this mark, zombies left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return {number: line for number, line in found.items() if line}


def find(mark: str, begin: str) -> list[int]:
    """The processes with this mark whose command line begins so."""
    return [number for number, line in processes_of(mark).items() if line.startswith(begin)]


def kill(mark: str, begin: str) -> list[int]:
    """SIGKILL to the processes whose command line begins so, and what they may have forked just now. Returns them."""
    numbers = find(mark, begin)
    assert numbers, (begin, processes_of(mark))
    for number in numbers:
        os.kill(number, signal.SIGKILL)
    return numbers


def end_all(mark: str, but: int = 0) -> None:
    """SIGKILL until nothing with this mark is left `but` this process: what is killed may just have started another."""
    while left := set(processes_of(mark)) - {but}:
        for number in left:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)


def wait_until_up(node: subprocess.Popen[bytes], output: Path, seconds: float = 120) -> None:
    """Wait until `ray start` has written that its node is up."""
    deadline = time.monotonic() + seconds
    while "Ray runtime started" not in output.read_text():
        assert node.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)


def assert_nothing_is_left(mark: str, folder: Path, sweep: str) -> None:
    """Neither a process nor, below the folder of ledgers, a lock, a half-written or a hidden file."""
    deadline = time.monotonic() + 20
    while processes_of(mark):
        assert time.monotonic() < deadline, processes_of(mark)
        time.sleep(0.2)
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    assert not (folder / f".ray-{sweep}").exists()
