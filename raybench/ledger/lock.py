"""One process a sweep.

On this machine a lock of the operating system, which dies with its holder. In a store, which has no locks, a claim:
an object with the holder's name, refreshed while it is held. Two claims at once see each other, because each is
written before the others are looked for. A claim that was not refreshed for `STALE_SECONDS`, by the store's own clock,
counts for nothing, and neither does that of a process of this machine that is gone.
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
_AT_ONCE_SECONDS: Final = 5.0  # two claims no further apart may have been written at the same time
_CLAIMS: Final = "_lock"
_TRIES: Final = 3


@contextmanager
def sweep_lock(folder: AnyPath) -> Iterator[None]:
    """Hold the lock of the sweep whose ledger is `folder`: in a hidden file beside it, or in a store in its `_lock/`.

    Raises UserError naming the holder when another process has it, StorageError where the store cannot be written.
    """
    with _held(folder) if isinstance(folder, Path) else _claimed(folder):
        yield


def release_on_exit(folder: AnyPath) -> None:
    """Take the lock's file away, for its holder that is about to end without unwinding: the lock ends with it, a claim
    in a store as that of a process that is gone."""
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
        path.unlink(missing_ok=True)  # while it is held: whoever opened it before finds that it is gone
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
        with contextlib.suppress(StorageError):  # of a process that is gone, it soon counts for nothing
            claim.unlink(missing_ok=True)


def _claim(folder: RemotePath, claim: RemotePath, content: str) -> None:
    """Write the claim where no other one counts. Raises UserError naming the holder of one that does."""
    for tries_left in reversed(range(_TRIES)):
        claim.write_bytes(content.encode(), patience=0)
        other = _other(folder, claim)
        if other is None:
            return
        holder, seconds_apart, path = other
        if seconds_apart > _AT_ONCE_SECONDS or not tries_left:
            minutes = f"{STALE_SECONDS / 60:.0f} minutes"
            remedy = f"; should it be gone, its claim ends {minutes} after it, or take away {path}"
            raise UserError(_told(folder, holder, remedy))
        claim.unlink(missing_ok=True)  # both step back, and try again at different moments
        time.sleep(random.uniform(0.2, 3.0))


def _other(folder: RemotePath, claim: RemotePath) -> tuple[str, float, RemotePath] | None:
    """(holder, seconds between the two, its path) of another claim that counts; those that do not are taken away."""
    written: dict[RemotePath, Any] = {path: path.modified for path in (folder / _CLAIMS).glob("*.json")}
    for path, modified in sorted(written.items()):
        if path == claim:
            continue
        seconds = (written[claim] - modified).total_seconds() if claim in written else 0.0
        try:
            other = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # given back in this moment
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
            with contextlib.suppress(StorageError):  # who writes results tells of it; the next minute tries again
                claim.write_bytes(content.encode(), patience=0)

    thread = threading.Thread(target=refresh, daemon=True, name="claim")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _is_gone(other: dict[str, Any]) -> bool:
    """Whether a claim is that of a process of this machine which is no more."""
    known = other["machine"] == _machine() and other["started"] is not None
    return bool(known and _started(other["process"]) != other["started"])


def _started(process: int) -> str | None:
    """When a process began, in clock ticks since the machine did; None where there is none, or no telling."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _machine() -> str:
    """This machine since it was started, and the part of its processes that this one sees."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()
