"""Runs groups of training processes one after another: each torchrun process starts one child and watches it. If a leg
ends the group early, the next group starts.

The torchrun processes communicate through torchrun's own store. The first one whose child fails says so there, and the
others end their children; rank 0 then writes the row of the leg that had begun. Otherwise they sleep.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from raybench.errors import FailureKind, UserError
from raybench.ledger.outcome import Failure
from raybench.machine.oom import oom_kills
from raybench.machine.variables import RUN
from raybench.training.command import be_reaper, kill_descendants, signal_name
from raybench.training.work import Work

GROUP: Final = "RAYBENCH_GROUP"  # names a process's group, and the group's part of the store
# Keys of a group's part of the store.
BEGUN: Final = "begun"  # a `Begun`
FAILED: Final = "failed"  # a `Died`
UNWRITTEN: Final = "unwritten"  # why a measured leg's row could not be written: it stays without an outcome
_DOWN: Final = "down"  # a process of the group failed
_SECONDS_BETWEEN_LOOKS = 1.0
_PATIENCE = timedelta(minutes=30)  # for the others' end, which takes seconds


@dataclass(frozen=True)
class Begun:
    """The running leg, and when it began, by the calendar."""

    leg_id: str
    at: float


@dataclass(frozen=True)
class Died:
    """A leg's failure on one rank alone."""

    kind: FailureKind
    message: str


def supervise(work: Work, argv: list[str]) -> int:
    """Run groups until the ledger holds every leg that fits. Returns the exit code, the same on every rank."""
    be_reaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    store, rank, world = store_of_torchrun()
    if rank == 0:
        store.set("raybench", uuid.uuid4().hex[:8])
    run = store.get("raybench").decode()
    number = 0
    while True:
        name = f"torchrun-{run}-{number}"
        group = part_of(store, name)
        held, kills = len(work.ledger.leg_ids()), oom_kills()
        codes = _run_group(group, rank, world, argv, {GROUP: name, RUN: os.environ.get(RUN, run)})
        if not any(codes):
            return 0
        if rank == 0:
            goes_on = not group.check([UNWRITTEN]) and (
                _record(work, group, name, codes, oom_kills() - kills) or _more(work, held)
            )
            group.set("goes_on", str(int(goes_on)))
        if group.get("goes_on") == b"0":
            return next(code for code in codes if code) if 2 in codes else 1
        number += 1


def store_of_torchrun() -> tuple[Any, int, int]:
    """torchrun's store, this process's rank, and the number of processes. Raises UserError outside torchrun."""
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"{missing[0]} is not set: start it by torchrun --nproc-per-node N -m raybench.training PLAN.json"
        )
    store, rank, world = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    return store, rank, world


def part_of(store: Any, name: str) -> Any:
    """The part of a store whose keys have a prefix."""
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def _run_group(store: Any, rank: int, world: int, argv: list[str], variables: Mapping[str, str]) -> list[int]:
    """Run this rank's process of a group, and all its descendants, to the end. Returns all ranks' exit codes: negative
    for a signal, 0 also for those ended because another had failed."""
    # The store is hosted by torchrun or by rank 0 of its processes, never by the child.
    environment = {**os.environ, **variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    child = subprocess.Popen([sys.executable, "-m", "raybench.training.group", *argv], env=environment)
    try:
        while (code := child.poll()) is None and not store.check([_DOWN]):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if code:
            store.set(_DOWN, str(rank))
    finally:
        kill_descendants()
    store.set(f"code{rank}", str(code or 0))
    keys = [f"code{other}" for other in range(world)]
    store.wait(keys, _PATIENCE)
    return [int(store.get(key)) for key in keys]


def _record(work: Work, store: Any, name: str, codes: list[int], kills: int) -> bool:
    """Write the row of the leg that ended this group. Returns whether there was one."""
    if not store.check([BEGUN]):
        return False
    begun = Begun(**json.loads(store.get(BEGUN)))
    if begun.leg_id in work.ledger.leg_ids():
        return False
    trial, leg = next((trial, leg) for trial, leg in work.plan.legs() if leg.leg_id == begun.leg_id)
    seconds = time.time() - begun.at
    kind, message = _cause(codes, kills)
    if store.check([FAILED]):
        died = Died(**json.loads(store.get(FAILED)))
        kind, message = died.kind, died.message
    elif seconds >= trial.leg_timeout_seconds:
        limit = trial.leg_timeout_seconds
        kind, message = "timeout", f"still running after {seconds:.0f} s; the limit is {limit:.0f} s"
    failure = Failure(
        kind,
        message,
        started_at=begun.at,
        environment={"node": socket.gethostname()},
        process_group=name,
        attempt=work.ledger.attempts().get(trial.trial_id, 0),
    )
    work.ledger.add(work.plan.sweep, work.plan.space, trial, leg, failure)
    print(f"{leg.arm_name} round {leg.round}: {message}", flush=True)
    return True


def _cause(codes: list[int], kills: int) -> tuple[FailureKind, str]:
    """The kind of failure and its message, from a group's exit codes."""
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
    if kills and code == -signal.SIGKILL:
        return "out_of_memory", f"rank {rank}: its process was killed while the kernel's OOM killer was at work"
    how = f"died of {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    return "crashed", f"rank {rank}: its process {how}"


def _more(work: Work, held: int) -> bool:
    """Whether the ledger has gained legs, so that the next group will not end where this one did."""
    if len(work.ledger.leg_ids()) > held:
        return True
    print("the processes ended before a leg began; their output is above", file=sys.stderr, flush=True)
    return False
