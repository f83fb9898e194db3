"""Importing DeepSpeed in a worker: its accelerator chosen, its operators built once a node, before anything is timed.

DeepSpeed compiles operators on first use (g++ and ninja) into torch's extensions cache, under a lock file
that torch 2.13 waits for without end if the process that held it was killed. So one process a node builds,
under a lock of the operating system that dies with its holder, and clears what a dead one left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from raybench.training.ranks import Ranks


def import_deepspeed(ranks: Ranks) -> None:
    """Import deepspeed for the group's device and load the operators that its communication uses."""
    os.environ.setdefault("DS_ACCELERATOR", ranks.device.type)
    venv_bin = str(Path(sys.executable).parent)  # ninja lies there, which a venv not activated has not on its path
    if venv_bin not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = venv_bin + os.pathsep + os.environ["PATH"]
    from deepspeed.comm.torch import build_shm_op

    with _only_builder():
        build_shm_op()
    ranks.barrier()


def build_adam(*, offloaded: bool) -> None:
    """Build DeepSpeed's Adam kernel, CPUAdam where `offloaded` and FusedAdam otherwise; at once where it is built."""
    from deepspeed.ops.op_builder import CPUAdamBuilder, FusedAdamBuilder

    with _only_builder():
        (CPUAdamBuilder if offloaded else FusedAdamBuilder)().load()


@contextlib.contextmanager
def _only_builder() -> Iterator[None]:
    """Hold raybench's lock on the extensions cache, with what a dead builder left behind cleared."""
    cache = extensions_cache()
    with (cache / ".raybench.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or its holder dies
        clear_stale_locks(cache)
        yield


def clear_stale_locks(cache: Path) -> list[Path]:
    """Remove torch's build locks in `cache`; called while holding raybench's own, when no build of ours can run."""
    stale = sorted(cache.glob("*/lock"))
    for lock in stale:
        lock.unlink(missing_ok=True)
    return stale


def extensions_cache() -> Path:
    """The folder in which torch keeps built extensions, one folder each."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory("deepspeed_shm_comm", verbose=False)).parent
