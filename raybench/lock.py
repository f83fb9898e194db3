"""One process a sweep: a lock of the operating system, which dies with its holder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raybench.errors import UserError


@contextmanager
def sweep_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the sweep whose ledger is `folder`, in a hidden file beside it.

    Raises UserError naming the holder when another process has it.
    """
    path = folder.parent / f".{folder.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # its last holder has just taken the file away; the next may have made another
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"sweep={folder.name} is being run by {holder}; wait for it, or name another sweep with sweep=NAME"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
