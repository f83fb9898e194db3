"""Why a process died: the signal named in its log, or the kernel's OOM killer. Asked on the process's node.

Ray says that a worker is gone, not why. Ray's signal handler logs the signals that a process can catch (SIGSEGV,
SIGABRT, SIGBUS). The OOM killer sends SIGKILL, which only the kernel's log shows.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.cluster import ray_private

_ANSWER_SECONDS = 30.0  # a process has to be started on the node first
_LAST_BYTES = 1 << 18  # how much of a log's end is searched for a signal
_EARLIER_SECONDS = 60.0  # allowed difference between the kernel's clock and ours
_INITIAL_NAMESPACE = "pid:[4026531836]"  # host's PID namespace, whose numbers the kernel log uses; fixed in Linux


@dataclass(frozen=True)
class Death:
    """What is known about the end of a process."""

    signal: str = ""  # its name; empty where the log names none
    log: str = ""  # the file that names the signal
    oom_killed: bool | None = None  # None where the kernel's log cannot be read


def how_died(actor_id: str | None, seconds: float) -> Death:
    """How an actor's process ended within the last `seconds`; an empty Death where its node does not answer."""
    actor = ray_private.actor_table(actor_id) if actor_id else {}
    if not actor.get("Pid"):
        return Death()
    node_id = actor["Address"]["NodeID"]
    if node_id == ray.get_runtime_context().get_node_id():
        return _look(actor["Pid"], seconds)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    answer = (
        ray.remote(num_cpus=0, max_retries=0)(_look).options(scheduling_strategy=there).remote(actor["Pid"], seconds)
    )
    try:
        death: Death = ray.get(answer, timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayError:  # the node may be gone too; that is detected and reported elsewhere
        return Death()
    return death


def _look(pid: int, seconds: float) -> Death:
    """How a process on this node ended."""
    signal, log = caught_signal(ray_private.log_folder() or Path(), pid)
    records = _kernel_records()
    since = time.monotonic() - seconds - _EARLIER_SECONDS
    return Death(signal, log, None if records is None else says_killed(records, pid, since))


def caught_signal(logs: Path, pid: int) -> tuple[str, str]:
    """The signal in a Ray worker's log that ended it, and the log's path; both empty where there is none."""
    files = sorted(logs.glob(f"worker-*-{pid}.err"), key=lambda file: file.stat().st_mtime)
    if not files:
        return "", ""
    with files[-1].open("rb") as file:  # process numbers are reused; the latest file is this process's
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        found = re.findall(rb"\*\*\* (SIG[A-Z]+) received", file.read())
    return (found[-1].decode(), str(files[-1])) if found else ("", "")


def says_killed(records: Iterable[bytes], pid: int, since: float) -> bool:
    """Whether the kernel's records say that the OOM killer ended this process at `since` or later (seconds after boot).
    A record is `priority,number,microseconds,flags;text`, as /dev/kmsg gives it."""
    for record in records:
        head, _, text = record.partition(b";")
        if b"Killed process %d (" % pid in text and int(head.split(b",")[2]) / 1e6 >= since:
            return True
    return False


def _kernel_records() -> list[bytes] | None:
    """The kernel's log; None where it may not be read, or a container hides the host's process numbers."""
    try:
        if os.readlink("/proc/self/ns/pid") != _INITIAL_NAMESPACE:
            return None
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return list(_read_records(log))
    except OSError:
        return None
    finally:
        os.close(log)


def _read_records(log: int) -> Iterator[bytes]:
    """Yield one record per read until there are no more."""
    while True:
        with suppress(BrokenPipeError):  # the next record was overwritten meanwhile; the read after it works
            try:
                yield os.read(log, 1 << 13)
            except BlockingIOError:
                return
