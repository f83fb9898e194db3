"""The same legs without Ray: `torchrun --nproc-per-node N -m raybench.training PLAN.json [ledger=FOLDER]`.

PLAN is what `python -m raybench.plan space=... --json` prints. Trials whose workers are not as many as
torchrun's processes are passed over and named. Every leg becomes a row in the ledger; legs that it already
holds are not run again. All trials run in the one set of processes that torchrun started, one block. Trials of a
setting that share their processes are one sample, so each repeat wants a torchrun of its own (repeat=K).
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError

from raybench.cli import parse_arguments, run_command
from raybench.declare.plan import Leg, Plan, Trial
from raybench.errors import LegDied, UserError
from raybench.ledger.dataset import Ledger, held_legs
from raybench.ledger.outcome import Failure, Outcome
from raybench.training.ranks import Ranks
from raybench.training.worker import run_legs


def main(argv: list[str]) -> int:
    """Run the legs of a plan on disk. Returns 0 when the ledger holds them all."""
    arguments = parse_arguments("training", argv)
    plan = _read_plan(Path(arguments.positionals[0]))
    ledger = Ledger(Path(arguments.values.get("ledger", f"mlruns/ledger/{plan.space}/{plan.sweep}")))
    places = ledger.rows(["setting_id", "repeat", "arm", "round", "leg_id", "is_baseline"])
    held_legs(plan, ledger.folder, places, "write to another folder with ledger=FOLDER")
    asking = sorted({leg.arm_name for _, leg in plan.legs() if leg.arm.packages})
    if asking:
        names = ", ".join(asking)
        raise UserError(f"{names}: arms with packages of their own need Ray to make their environments; run the sweep")
    device = _device(plan)
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)  # torch warns at every barrier otherwise
    else:
        dist.init_process_group("gloo")
    try:
        _run_block(plan, _chosen(plan, arguments.values), ledger, device)
    finally:
        dist.destroy_process_group()
    return 0


def _run_block(plan: Plan, trials: Sequence[Trial], ledger: Ledger, device: torch.device) -> None:
    """The legs of the trials that the ledger lacks, in this one set of processes."""
    done = ledger.leg_ids()
    dist.barrier()
    ranks = Ranks.joined(device, max(trial.leg_timeout_seconds for trial in trials))
    for trial in trials:
        if trial.setting.workers != ranks.world and ranks.rank == 0:
            print(f"passed over: {trial.label} wants {trial.setting.workers} workers, torchrun started {ranks.world}")
    fitting = [trial for trial in trials if trial.setting.workers == ranks.world]
    if len({trial.repeat for trial in fitting}) > 1 and ranks.rank == 0:
        print("several repeats in one set of processes count as one sample; start one torchrun for each, with repeat=K")
    block = [(trial, [leg for leg in trial.legs if leg.leg_id not in done]) for trial in fitting]
    trial_of = {leg.leg_id: trial for trial, legs in block for leg in legs}
    group = ranks.gather(f"torchrun-{uuid.uuid4().hex[:8]}")[0]

    def begin(leg: Leg) -> None:
        trial = trial_of[leg.leg_id]
        now = time.strftime("%H:%M:%S")
        print(f"{now} {trial.label} repeat {trial.repeat}: {leg.arm_name} round {leg.round}", flush=True)

    def record(leg: Leg, outcome: Outcome) -> None:
        outcome = replace(outcome, process_group=group)
        ledger.add(plan.sweep, plan.space, trial_of[leg.leg_id], leg, outcome)

    try:
        run_legs([work for work in block if work[1]], ranks, begin, record, _largest_batches(ledger))
    except LegDied as error:  # the others hang in it, so this rank writes its row, and ends without waiting for them
        leg = next(leg for _, legs in block for leg in legs if leg.leg_id == error.leg_id)
        record(leg, Failure(error.kind, error.message, started_at=time.time()))
        print(f"{leg.arm_name} round {leg.round}: {error}; the same command again runs the legs after it", flush=True)
        os._exit(1)


def _largest_batches(ledger: Ledger) -> dict[str, dict[str, dict[str, Any]]]:
    """What the ledger's rows say of the largest batches, by setting and arm."""
    batches: dict[str, dict[str, dict[str, Any]]] = {}
    for row in ledger.rows(["setting_id", "arm", "batch_probes"]):
        if row.get("batch_probes"):
            batches.setdefault(row["setting_id"], {})[row["arm"]] = json.loads(row["batch_probes"])
    return batches


def _chosen(plan: Plan, values: Mapping[str, str]) -> Sequence[Trial]:
    """The trials that `trial=K` or `repeat=K` names, all without either. Raises UserError for one that is not there."""
    if "trial" in values:
        number = values["trial"]
        if not number.isdigit() or int(number) >= len(plan.trials):
            raise UserError(f"trial={number}: the plan's trials are numbered 0 to {len(plan.trials) - 1}")
        return (plan.trials[int(number)],)
    if "repeat" not in values:
        return plan.trials
    chosen = [trial for trial in plan.trials if str(trial.repeat) == values["repeat"]]
    if not chosen:
        last = max(trial.repeat for trial in plan.trials)
        raise UserError(f"repeat={values['repeat']}: the plan's repeats are numbered 0 to {last}")
    return chosen


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
    except OSError as error:
        reason = str(error.strerror)
    raise UserError(f"{path}: not a plan that `python -m raybench.plan ... --json` wrote: {reason}") from None


def _device(plan: Plan) -> torch.device:
    wanted = {trial.setting.device for trial in plan.trials}
    if "cpu" in wanted or not torch.cuda.is_available():
        if "cuda" in wanted:
            raise UserError("setting.device: cuda, but this torch sees no CUDA device here")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    run_command(main)
