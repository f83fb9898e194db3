"""What ended a process: the signal that its log names, or the kernel for want of memory. Asked on the process's node.

Ray says of a worker that it is gone, not of what. A signal that a process can catch (SIGSEGV, SIGABRT, SIGBUS) is
written to its log by the handler that Ray installs; of SIGKILL, which is the OOM killer's, only the kernel can tell.
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

_ANSWER_SECONDS = 30.0  # a process has to be started on the node
_LAST_BYTES = 1 << 18  # of a log, in which a signal's line is sought
_EARLIER_SECONDS = 60.0  # the kernel's clock and this one may differ a little
_INITIAL_NAMESPACE = "pid:[4026531836]"  # of process numbers, those that the kernel's log names; a constant of Linux


@dataclass(frozen=True)
class Death:
    """What is known of the end of a process."""

    signal: str = ""  # its name; empty where the log tells of none
    log: str = ""  # the file that does
    oom_killed: bool | None = None  # by the kernel; None where it cannot be asked


def how_died(actor_id: str | None, seconds: float) -> Death:
    """How the process of an actor ended within the last `seconds`; nothing is known where its node does not answer."""
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
    except ray.exceptions.RayError:  # the node may be gone with it; that is found and told elsewhere
        return Death()
    return death


def _look(pid: int, seconds: float) -> Death:
    """How a process of this node ended."""
    signal, log = caught_signal(ray_private.log_folder() or Path(), pid)
    records = _kernel_records()
    since = time.monotonic() - seconds - _EARLIER_SECONDS
    return Death(signal, log, None if records is None else says_killed(records, pid, since))


def caught_signal(logs: Path, pid: int) -> tuple[str, str]:
    """The signal that a Ray worker's log says it died of, and that log; both empty where there is none."""
    files = sorted(logs.glob(f"worker-*-{pid}.err"), key=lambda file: file.stat().st_mtime)
    if not files:
        return "", ""
    with files[-1].open("rb") as file:  # numbers come again; the latest file is this process's
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        found = re.findall(rb"\*\*\* (SIG[A-Z]+) received", file.read())
    return (found[-1].decode(), str(files[-1])) if found else ("", "")


def says_killed(records: Iterable[bytes], pid: int, since: float) -> bool:
    """Whether one of the kernel's records, no older than `since` (seconds after it started), says that this process was
    ended for want of memory. A record is `priority,number,microseconds,flags;text`, as /dev/kmsg gives it."""
    for record in records:
        head, _, text = record.partition(b";")
        if b"Killed process %d (" % pid in text and int(head.split(b",")[2]) / 1e6 >= since:
            return True
    return False


def _kernel_records() -> list[bytes] | None:
    """The kernel's log; None where it may not be read, or its process numbers are not those of this container."""
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
    """A record a read, until there is no more."""
    while True:
        with suppress(BrokenPipeError):  # the next one was overwritten meanwhile; the read after it goes on
            try:
                yield os.read(log, 1 << 13)
            except BlockingIOError:
                return


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory, in this control group where it has a count of its own
    (version 2), else on this machine; 0 where it does not say."""
    with suppress(OSError):
        group = re.search(r"^0::(/.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        for file in (Path(f"/sys/fs/cgroup{group[1]}/memory.events") if group else Path(), Path("/proc/vmstat")):
            if file.is_file():
                found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
                return int(found[1]) if found else 0
    return 0
