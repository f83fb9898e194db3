"""The processes of a chaos run: found by a mark in their environment and by what Ray calls them."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable

from tests.sweep.test_interrupt import processes_of

# What Ray shows as the command line of each kind of actor, between its calls and in one.
TITLES = {
    "kill_trial": r"ray::BlockRunner",
    "kill_recorder": r"ray::Recorder",
    "kill_worker": r"ray::\w*RayTrainWorker",
    "kill_gcs": r"\S*/gcs_server ",
}
_ROOM_BYTES = 512  # less than any file of the recorder
_PATIENCE_SECONDS = 600.0  # the start of a run on a busy machine included


def victims(marks: list[str], kind: str) -> list[int]:
    """The processes that a strike of this kind may hit."""
    return sorted(
        number for mark in marks for number, line in processes_of(mark).items() if re.match(TITLES[kind], line)
    )


def wait_for(happens: Callable[[], object], alive: Callable[[], bool]) -> bool:
    """Wait until something happens, as long as the run is alive. Returns whether it did."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not happens():
        if not alive() or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill_one(marks: list[str], kind: str, chance: random.Random, alive: Callable[[], bool]) -> str | None:
    """SIGKILL one process of this kind, once there is one. Returns what was hit; None where the run ended first."""
    if not wait_for(lambda: victims(marks, kind), alive):
        return None
    found = victims(marks, kind)
    if not found:
        return None
    victim = chance.choice(found)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return f"{kind}: process {victim} had just ended"
    return f"{kind}: process {victim}"


def take_room(marks: list[str], alive: Callable[[], bool]) -> str | None:
    """From now on the recorder can write no file beyond some bytes, as on a disk that is full in the midst of one.

    A file system that is really full is the matter of tests/sweep/test_full_disk.py: it has to be mounted.
    """
    while wait_for(lambda: victims(marks, "kill_recorder"), alive):
        for recorder in victims(marks, "kill_recorder"):
            try:
                resource.prlimit(recorder, resource.RLIMIT_FSIZE, (_ROOM_BYTES, _ROOM_BYTES))
            except ProcessLookupError:
                continue  # another one is started in its place
            return f"no_room: process {recorder}"
    return None


def parent(number: int) -> int | None:
    """The parent of a process; None where it is gone."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None
