"""Legs that are faked, in the processes of a real group on real Ray: no torch, so that a group starts in seconds.

Each leg does what `chaos.json` in the sweep's working tree says of it: a fault, or a measurement whose numbers follow
from the leg's id. Ranks meet by files in that folder; a rank whose peer is gone waits until somebody ends it, as in a
collective.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import StepChoice
from raybench.errors import LegDied
from raybench.ledger.batches import LargestBatches
from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.machine.variables import WORKING_TREE
from raybench.statistics.num_steps import Pilot

SCRIPT = "chaos.json"
MEETINGS = "meetings"


class Ranks:
    """What the legs know of their group, as `raybench.training.ranks.Ranks`."""

    def __init__(self, rank: int, world: int, folder: Path) -> None:
        self.rank, self.world, self.device = rank, world, "cpu"
        self._folder, self._meetings = folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        self._meetings += 1
        names = [self._folder / f"{self._meetings}-{rank}" for rank in range(self.world)]
        aside = names[self.rank].with_suffix(".writing")
        aside.write_bytes(pickle.dumps(value))
        aside.replace(names[self.rank])
        while not all(name.exists() for name in names):
            time.sleep(0.005)
        return [pickle.loads(name.read_bytes()) for name in names]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)


def run_legs(
    block: Sequence[tuple[Trial, Sequence[Leg]]],
    ranks: Ranks,
    begin: Callable[[Leg], bool | None],
    record: Callable[[Leg, Outcome], None],
    batches: LargestBatches | None = None,
    choose_steps: Callable[[str, Pilot | None], StepChoice | None] | None = None,
) -> None:
    """As `raybench.training.worker.run_legs`."""
    script = json.loads((Path(os.environ[WORKING_TREE]) / SCRIPT).read_text(encoding="utf-8"))
    for trial, leg in ((trial, leg) for trial, legs in block for leg in legs):
        answer = begin(leg) if ranks.rank == 0 else None
        if ranks.gather(answer)[0] is False:
            return
        faulthandler.dump_traceback_later(trial.leg_timeout_seconds, exit=True, file=2)
        outcome = _run(leg, ranks, script.get(leg.leg_id))
        faulthandler.cancel_dump_traceback_later()
        if ranks.rank == 0:
            record(leg, outcome)
        ranks.barrier()


def _run(leg: Leg, ranks: Ranks, fault: Mapping[str, Any] | None) -> Outcome:
    started_at = time.time()
    time.sleep(0.05 + 0.25 * _number(leg.leg_id, "length"))
    ranks.barrier()
    alone = fault is not None and fault["rank"] == ranks.rank
    match fault and fault["kind"]:
        case "raise":
            return Failure("error", "planted trouble", started_at=started_at)
        case "nan":
            return Failure("not_finite", "planted: the loss of step 2 is nan", started_at=started_at)
        case "memory":
            return Failure("out_of_memory", "planted: out of memory", started_at=started_at)
        case "raise_alone" if alone:
            raise LegDied(leg.leg_id, "error", f"rank {ranks.rank}: planted trouble")
        case "exit" if alone:
            os._exit(7)
        case "segv" if alone:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)  # the handler, which takes its time, runs in the main thread
        case "kill" if alone:
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang" if alone:
            time.sleep(3600)
    ranks.barrier()
    return measurement(leg, started_at)


def measurement(leg: Leg, started_at: float = 0.0) -> Measurement:
    """What a leg measures: always the same."""
    steps = [0.01 + 0.001 * _number(leg.leg_id, step) for step in range(12)]
    return Measurement(
        step_seconds=steps, warmup_steps=2, data_seconds=[step / 10 for step in steps], samples_per_step=16,
        peak_device_bytes=None, peak_host_bytes=int(2**30 * (1 + _number(leg.leg_id, "bytes"))), setup_seconds=0.01,
        train_seconds=sum(steps), eval_seconds=0.0, first_loss=2.3, final_loss=_number(leg.leg_id, "loss"),
        started_at=started_at,
    )  # fmt: skip


def _number(leg_id: str, what: Any) -> float:
    """A number from 0 to 1 that belongs to a leg."""
    return int(hashlib.sha256(f"{leg_id} {what}".encode()).hexdigest()[:8], 16) / 2**32
