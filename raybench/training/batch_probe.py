"""One rank's process of a search (see `raybench.training.largest`): runs a few real steps of a leg at each size.

Reads `ProbeRequest`s as JSON lines from standard input until it ends, and writes a `ProbeState` to the file that each
request names. It survives running out of memory where torch raises an error, and may die otherwise.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import Throughput
from raybench.training import memory
from raybench.training.command import end_with_parent
from raybench.training.failures import classify, describe, print_traceback
from raybench.training.largest import ProbeRequest, ProbeState
from raybench.training.leg import run_leg
from raybench.training.node.sampling import Telemetry
from raybench.training.ranks import Ranks
from raybench.training.worker import prepare

# The optimizer's state exists from the end of the first step on, so the second step's peak is a run's peak.
_STEPS = Throughput(warmup_steps=1, steps=2, rounds=1, phases=False, telemetry=False)


def main() -> None:
    """Answer the requests on standard input, then end the process without waiting for its libraries."""
    end_with_parent()
    ranks: Ranks | None = None
    for line in sys.stdin:
        request = ProbeRequest(**json.loads(line))
        answer = Path(request.answer)
        try:
            trial = Trial.model_validate(request.trial).model_copy(update={"protocol": _STEPS})
            leg = next(leg for leg in trial.legs if leg.leg_id == request.leg_id)
            ranks = ranks or _joined(request, trial, leg)
            said = _run(trial, leg.with_micro_batch(request.micro_batch), ranks)
        except Exception as error:
            print_traceback()
            kind = classify(error)
            state: Literal["out of memory", "failed"] = "out of memory" if kind == "out_of_memory" else "failed"
            said = ProbeState(state, message=describe(error), kind=kind)
        if ranks is not None:
            memory.release(ranks.device)
        aside = answer.with_suffix(".writing")
        aside.write_text(json.dumps(asdict(said)), encoding="utf-8")
        aside.replace(answer)
    sys.stderr.flush()
    os._exit(0)


def _joined(request: ProbeRequest, trial: Trial, leg: Leg) -> Ranks:
    """The ranks of the search; imports everything that the leg's own process has, other arms' libraries included."""
    device = torch.device(request.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        _hold_to_limit(leg, device)
    if request.distributed:
        on_gpu = device.type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    ranks = Ranks.joined(device, trial.leg_timeout_seconds)
    prepare(trial, trial.legs, ranks)
    return ranks


def _run(trial: Trial, leg: Leg, ranks: Ranks) -> ProbeState:
    measured = run_leg(trial, leg, ranks, Telemetry(ranks, False))
    peak = measured.peak_host_bytes if ranks.device.type == "cpu" else measured.peak_device_bytes
    return ProbeState("fits", peak)


def _hold_to_limit(leg: Leg, device: torch.device) -> None:
    limit = leg.setting.memory_limit
    if limit is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)


if __name__ == "__main__":
    main()
