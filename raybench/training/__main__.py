"""The same legs without Ray: `torchrun --nproc-per-node N -m raybench.training PLAN.json [ledger=FOLDER]`.

PLAN is what `python -m raybench.plan space=... --json` prints. Trials whose workers are not as many as
torchrun's processes are passed over and named. Every leg becomes a row in the ledger; legs that it already
holds are not run again. All trials run in the one set of processes that torchrun started, so a trial is no
fresh sample here: take one plan's repeats from several torchrun calls (trial=K) where that matters.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raybench.cli import parse_arguments, run_command
from raybench.declare.plan import Leg, Plan, Trial
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Outcome
from raybench.training.ranks import Ranks
from raybench.training.worker import run_legs


def main(argv: list[str]) -> int:
    """Run the legs of a plan on disk. Returns 0 when the ledger holds them all."""
    arguments = parse_arguments("training", argv)
    plan = _read_plan(Path(arguments.positionals[0]))
    ledger = Ledger(Path(arguments.values.get("ledger", f"mlruns/ledger/{plan.space}/{plan.sweep}")))
    device = _device(plan)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        for trial in _chosen(plan, arguments.values.get("trial")):
            _run_trial(plan, trial, ledger, device)
    finally:
        dist.destroy_process_group()
    return 0


def _run_trial(plan: Plan, trial: Trial, ledger: Ledger, device: torch.device) -> None:
    done = ledger.leg_ids()
    dist.barrier()
    legs = [leg for leg in trial.legs if leg.leg_id not in done]
    ranks = Ranks.joined(device, trial.leg_timeout_seconds)
    if trial.setting.workers != ranks.world:
        if ranks.rank == 0:
            print(f"passed over: {trial.label} wants {trial.setting.workers} workers, torchrun started {ranks.world}")
        return
    group = f"torchrun-{uuid.uuid4().hex[:8]}"

    def begin(leg: Leg) -> None:
        print(f"{trial.label} repeat {trial.repeat}: {leg.arm_name} round {leg.round}", flush=True)

    def record(leg: Leg, outcome: Outcome) -> None:
        ledger.add(plan.sweep, plan.space, trial, leg, replace(outcome, process_group=group))

    run_legs(trial, legs, ranks, begin, record, _largest_batches(ledger, trial))


def _largest_batches(ledger: Ledger, trial: Trial) -> dict[str, dict[str, Any]]:
    """What the ledger's rows say of the largest batches of the trial's setting, by arm."""
    rows = ledger.rows(["setting_id", "arm", "batch_probes"])
    own = [row for row in rows if row["setting_id"] == trial.setting_id and row.get("batch_probes")]
    return {row["arm"]: json.loads(row["batch_probes"]) for row in own}


def _chosen(plan: Plan, number: str | None) -> tuple[Trial, ...]:
    if number is None:
        return plan.trials
    if not number.isdigit() or int(number) >= len(plan.trials):
        raise UserError(f"trial={number}: the plan's trials are numbered 0 to {len(plan.trials) - 1}")
    return (plan.trials[int(number)],)


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a plan that `python -m raybench.plan ... --json` wrote: {error}") from None


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
