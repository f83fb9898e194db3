"""One process of a group under torchrun (`supervisor`): runs the legs that the ledger lacks.

    python -m raybench.training.group PLAN.json [ledger=FOLDER] ...

Rank 0 writes a row for each leg, and notes in the group's store which leg has begun. If that leg ends the process, the
supervisor reads the note and writes its row.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from raybench.declare.plan import Leg, Plan, Trial
from raybench.errors import LegDied, StorageError, UserError
from raybench.ledger.batches import LargestBatch, LargestBatches, note_batch
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Outcome
from raybench.redaction import first_line
from raybench.statistics.num_steps import StepChoices
from raybench.training.command import end_with_parent
from raybench.training.ranks import Ranks
from raybench.training.supervisor import BEGUN, FAILED, GROUP, UNWRITTEN, Begun, Died, part_of, store_of_torchrun
from raybench.training.work import read_work
from raybench.training.worker import run_legs


class _Unwritten(Exception):
    """A leg was measured, but its row could not be written."""


def main(argv: list[str]) -> int:
    """Run the plan's legs that its ledger lacks, in the group that the environment names."""
    end_with_parent()
    file, *values = argv
    work = read_work(file, dict(value.split("=", 1) for value in values))
    device = _device(work.plan)
    store, rank, world = store_of_torchrun()
    own = part_of(store, os.environ[GROUP])
    longest = timedelta(seconds=max(trial.leg_timeout_seconds for trial in work.trials) + 60)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=part_of(own, "torch"),
        rank=rank,
        world_size=world,
        timeout=longest,
        device_id=device if device.type == "cuda" else None,  # otherwise torch warns at every barrier
    )
    try:
        _run(work.plan, work.trials, work.ledger, device, own)
    except _Unwritten as error:
        own.set(UNWRITTEN, str(error))
        print(f"raybench: {error}; make room there, and start again", file=sys.stderr)
        return 1
    except LegDied as error:  # the other ranks hang in the leg, so do not wait for them
        own.compare_set(FAILED, "", json.dumps(asdict(Died(error.kind, error.message))))
        return 1
    dist.destroy_process_group()
    return 0


def _run(plan: Plan, trials: Sequence[Trial], ledger: Ledger, device: torch.device, store: Any) -> None:
    dist.barrier()
    ranks = Ranks.joined(device, max(trial.leg_timeout_seconds for trial in trials))
    # Rank 0 writes the ledger; other nodes need not see its folder.
    if ranks.rank == 0:
        ledger.finish_withdrawals()
    attempts = ledger.attempts() if ranks.rank == 0 else {}
    done, largest = ranks.gather((ledger.leg_ids(), _known_batches(ledger)) if ranks.rank == 0 else None)[0]
    for trial in trials:
        if trial.setting.workers != ranks.world and ranks.rank == 0:
            print(f"passed over: {trial.label} wants {trial.setting.workers} workers, torchrun started {ranks.world}")
    fitting = [trial for trial in trials if trial.setting.workers == ranks.world]
    if len({trial.repeat for trial in fitting}) > 1 and ranks.rank == 0:
        print("several repeats in one set of processes count as one sample; start one torchrun for each, with repeat=K")
    block = [(trial, [leg for leg in trial.legs if leg.leg_id not in done]) for trial in fitting]
    trial_of = {leg.leg_id: trial for trial, legs in block for leg in legs}

    def begin(leg: Leg) -> None:
        trial = trial_of[leg.leg_id]
        store.set(BEGUN, json.dumps(asdict(Begun(leg.leg_id, time.time()))))
        now = time.strftime("%H:%M:%S")
        print(f"{now} {trial.label} repeat {trial.repeat}: {leg.arm_name} round {leg.round}", flush=True)

    def record(leg: Leg, outcome: Outcome) -> None:
        trial = trial_of[leg.leg_id]
        outcome = replace(outcome, process_group=os.environ[GROUP], attempt=attempts.get(trial.trial_id, 0))
        try:
            row = ledger.add(plan.sweep, plan.space, trial, leg, outcome)
        except (OSError, StorageError) as error:
            raise _Unwritten(f"the ledger cannot be written: {first_line(error)}") from error
        choices.note(row)

    choices = StepChoices()
    for row in ledger.rows(StepChoices.COLUMNS) if ranks.rank == 0 else ():
        choices.note(row)
    run_legs([work for work in block if work[1]], ranks, begin, record, largest, choices.of)


def _known_batches(ledger: Ledger) -> LargestBatches:
    """The largest batches that the ledger's rows hold."""
    batches: dict[str, dict[str, LargestBatch]] = {}
    for row in ledger.rows(["setting_id", "arm", "batch_probes"]):
        note_batch(batches, row)
    return batches


def _device(plan: Plan) -> torch.device:
    wanted = {trial.setting.device for trial in plan.trials}
    if "cpu" in wanted or not torch.cuda.is_available():
        if "cuda" in wanted:
            raise UserError("setting.device: cuda, but this torch sees no CUDA device here")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _exit_code() -> int:
    try:
        return main(sys.argv[1:])
    except UserError as error:
        print(f"raybench: {error}", file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    code = _exit_code()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # do not wait for threads that an engine left running
