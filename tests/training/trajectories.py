"""Losses of real engines, step by step: `torchrun ... -m tests.training.trajectories CASES.json OUT.json`.

Many small runs in one set of processes, because importing the libraries takes longer than all of them. A case is
{"name", "arm", "setting", "steps", "trick"}; a reference is {"name", "reference", "arguments"}. Rank 0 writes
name -> {"losses", "norm" (of the first step's gradient), "facts"}, or {"refused": an engine's words}.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from raybench.declare.arms import Arm
from raybench.declare.plan import Leg
from raybench.declare.setting import Setting
from raybench.errors import InvalidConfig, Unsupported
from raybench.training import memory
from raybench.training.engines import Engine, build_engine
from raybench.training.engines.deepspeed_ops import import_deepspeed
from raybench.training.firststep import gradient_norm
from raybench.training.leg import seed_everything, set_kernels
from raybench.training.loader import Batches
from raybench.training.loop import run_steps
from raybench.training.models.layers import checkpoint_activations
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import HostClock
from raybench.training.tasks import build_task
from tests.training import references

SEED = 1234


def main(cases_file: str, out_file: str) -> None:
    """Run every case, one after another."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks.joined(torch.device("cpu"), 600)
    import_deepspeed(ranks)
    results = {}
    for case in json.loads(Path(cases_file).read_text()):
        begun = time.perf_counter()
        try:
            results[case["name"]] = _reference(case, ranks) if "reference" in case else _run(case, ranks)
        except (InvalidConfig, Unsupported) as error:
            results[case["name"]] = {"refused": f"{type(error).__name__}: {error}"}
        memory.release(ranks.device)
        if ranks.rank == 0:
            print(f"{time.perf_counter() - begun:.2f} s: {case['name']}", flush=True)
    if ranks.rank == 0:
        Path(out_file).write_text(json.dumps(results))
    dist.destroy_process_group()


def _reference(case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    losses = getattr(references, case["reference"])(seed=SEED, **case["arguments"])
    return {"losses": _mean_over_ranks(losses, ranks)}


def _run(case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    setting = Setting.model_validate({**case["setting"], "workers": ranks.world})
    arm: Arm = TypeAdapter(Arm).validate_python(case["arm"])
    leg = Leg(leg_id="", arm_name="", arm=arm, is_baseline=False, setting=setting, round=0, position=0)
    seed_everything(SEED)
    set_kernels(setting)
    task = build_task(setting)
    model = task.build_model()
    model.train()
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)
    if setting.activation_checkpointing:
        checkpoint_activations(model)
    batches = Batches(task, ranks.rank, SEED, ranks.device)
    if case.get("trick") == "every rank sees the same samples":
        batches.sampler.rank = 0
    engine = build_engine(leg, model, ranks.device)
    if case.get("trick") == "no division by accumulation":
        engine.accumulation = 1
    first = _FirstNorm(engine, ranks)
    losses = run_steps(
        first, iter(batches), task.loss, HostClock(),
        num_steps=case["steps"], accumulation=setting.accumulation, phases=False,
    )  # fmt: skip
    facts = engine.facts()
    engine.destroy()
    per_step = torch.stack(losses).double().reshape(-1, setting.accumulation).mean(1)
    return {"losses": _mean_over_ranks(per_step.tolist(), ranks), "norm": first.norm, "facts": facts}


class _FirstNorm:
    """An engine that notes the gradient's norm before its first step."""

    def __init__(self, engine: Engine, ranks: Ranks) -> None:
        self.engine, self.ranks, self.norm = engine, ranks, None
        self.forward, self.backward = engine.forward, engine.backward

    def step(self) -> None:
        if self.norm is None:
            self.norm = gradient_norm(self.engine, self.ranks)
        self.engine.step()


def _mean_over_ranks(losses: list[float], ranks: Ranks) -> list[float]:
    return [sum(values) / ranks.world for values in zip(*ranks.gather(losses), strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
