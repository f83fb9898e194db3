"""Lets only one process run a sweep.

On this machine it is an operating system lock, which ends with its holder. A store has no locks, so there it is a
claim: an object with the holder's name, refreshed while it is held. Two simultaneous claims see each other, because
each is written before looking for others. A claim does not count if it was not refreshed for `STALE_SECONDS`, by the
store's own clock, or if its process on this machine is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from raybench.errors import StorageError, UserError
from raybench.stores.storage import AnyPath

if TYPE_CHECKING:
    from raybench.stores.remotepath import RemotePath

STALE_SECONDS: Final = 600.0
_REFRESH_SECONDS: Final = 60.0
_AT_ONCE_SECONDS: Final = 5.0  # two claims this close may have been written at the same time
_CLAIMS: Final = "_lock"
_TRIES: Final = 3


@contextmanager
def sweep_lock(folder: AnyPath) -> Iterator[None]:
    """Hold the lock of the sweep whose ledger is `folder`: a hidden file beside it, or in a store its `_lock/`.

    Raises UserError naming the holder when another process has it, StorageError where the store cannot be written.
    """
    with _held(folder) if isinstance(folder, Path) else _claimed(folder):
        yield


def release_on_exit(folder: AnyPath) -> None:
    """Delete the lock's file, for a holder about to exit without unwinding: its exit ends the lock. A claim in a store
    ends as a dead process's claim does."""
    if isinstance(folder, Path):
        _lock_file(folder).unlink(missing_ok=True)


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    path = _lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = ""
        with contextlib.suppress(FileNotFoundError):  # its holder has just ended
            holder = path.read_text(encoding="utf-8").strip()
        raise UserError(_told(folder, holder or "another process")) from None
    try:
        path.write_text(_holder(), encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)  # still holding the lock, so that others who opened the file see that it is gone
        lock.release()


def _told(folder: AnyPath, holder: str, remedy: str = "") -> str:
    return f"sweep={folder.name} is being run by {holder}; wait for it, or name another sweep with sweep=NAME{remedy}"


def _holder() -> str:
    return f"process {os.getpid()} on {platform.node()}"


@contextmanager
def _claimed(folder: RemotePath) -> Iterator[None]:
    claim = folder / _CLAIMS / f"{uuid.uuid4().hex}.json"
    me = {"holder": _holder(), "machine": _machine(), "process": os.getpid(), "started": _started(os.getpid())}
    content = json.dumps(me)
    try:
        _claim(folder, claim, content)
        with _refreshed(claim, content):
            yield
    finally:
        with contextlib.suppress(StorageError):  # if it stays, the claim of a dead process soon does not count
            claim.unlink(missing_ok=True)


def _claim(folder: RemotePath, claim: RemotePath, content: str) -> None:
    """Write the claim, unless another one counts. Raises UserError naming the holder of one that does."""
    for tries_left in reversed(range(_TRIES)):
        claim.write_bytes(content.encode(), patience=0)
        other = _other(folder, claim)
        if other is None:
            return
        holder, seconds_apart, path = other
        if seconds_apart > _AT_ONCE_SECONDS or not tries_left:
            minutes = f"{STALE_SECONDS / 60:.0f} minutes"
            remedy = f"; if that process is gone, its claim expires {minutes} after its end, or remove {path}"
            raise UserError(_told(folder, holder, remedy))
        claim.unlink(missing_ok=True)  # both withdraw, and try again at different times
        time.sleep(random.uniform(0.2, 3.0))


def _other(folder: RemotePath, claim: RemotePath) -> tuple[str, float, RemotePath] | None:
    """(holder, seconds between the claims, path) of another claim that counts; deletes those that do not."""
    written: dict[RemotePath, Any] = {path: path.modified for path in (folder / _CLAIMS).glob("*.json")}
    for path, modified in sorted(written.items()):
        if path == claim:
            continue
        seconds = (written[claim] - modified).total_seconds() if claim in written else 0.0
        try:
            other = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # just released
        if seconds > STALE_SECONDS or _is_gone(other):
            path.unlink(missing_ok=True)
            continue
        return str(other["holder"]), abs(seconds), path
    return None


@contextmanager
def _refreshed(claim: RemotePath, content: str) -> Iterator[None]:
    end = threading.Event()

    def refresh() -> None:
        while not end.wait(_REFRESH_SECONDS):
            with contextlib.suppress(StorageError):  # the writer of results reports the error; try again in a minute
                claim.write_bytes(content.encode(), patience=0)

    thread = threading.Thread(target=refresh, daemon=True, name="claim")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _is_gone(other: dict[str, Any]) -> bool:
    """Whether a claim is from a process on this machine that no longer exists."""
    known = other["machine"] == _machine() and other["started"] is not None
    return bool(known and _started(other["process"]) != other["started"])


def _started(process: int) -> str | None:
    """When a process began, in clock ticks since boot; None where there is none or it cannot be told."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _machine() -> str:
    """This machine since its last boot, and the PID namespace that this process sees."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()
