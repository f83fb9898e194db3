"""Legs that are not what they say: `torchrun ... -m tests.training.hidden PLAN.json LEDGER [PLAN.json LEDGER ...]`.

Runs the legs of each plan's first trial into a ledger as `raybench.training` does, but an arm whose name begins with
`hidden` is changed behind the space's back, in one way: the one that its name says.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from raybench.declare.plan import Leg, Plan
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Outcome
from raybench.training import leg, loader
from raybench.training.engines import deepspeed_engine, fsdp_engine, torch_engine
from raybench.training.ranks import Ranks
from raybench.training.worker import run_legs


def _optimizer(change: dict[str, Any]) -> Callable[..., torch.optim.Optimizer]:
    from raybench.training.engines.optimizers import build_optimizer

    def build(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer = build_optimizer(*arguments, **options)
        optimizer.param_groups[0].update(change)
        return optimizer

    return build


def _without_clipping(*arguments: Any) -> dict[str, Any]:
    from raybench.declare.deepspeed_config import deepspeed_config

    config = deepspeed_config(*arguments)
    del config["gradient_clipping"]  # as a script that does not think of it
    return config


class _Ordered(loader.Batches):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sampler.shuffle = False


def _keeping_the_last(*arguments: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(*arguments, **{**options, "drop_last": False})


def _with_ballast(*arguments: Any) -> Any:
    from raybench.training.engines import build_engine

    engine: Any = build_engine(*arguments)
    engine.ballast = torch.ones(50_000_000)  # 200 MB, every page of it touched
    return engine


CHANGES: dict[str, Callable[[], Any]] = {
    "hidden_weight_decay": lambda: patch.object(torch_engine, "build_optimizer", _optimizer({"weight_decay": 0.01})),
    "hidden_betas": lambda: patch.object(fsdp_engine, "build_optimizer", _optimizer({"betas": (0.9, 0.95)})),
    "hidden_clipping": lambda: patch.object(deepspeed_engine, "deepspeed_config", _without_clipping),
    "hidden_memory": lambda: patch.object(leg, "build_engine", _with_ballast),
    "hidden_order": lambda: patch.object(leg, "Batches", _Ordered),
    "hidden_last_batch": lambda: patch.object(loader, "DataLoader", _keeping_the_last),
}
# What a leg's setting is changed to.
SETTINGS: dict[str, dict[str, Any]] = {
    "hidden_dtype": {"precision": "bf16"},
    "hidden_accumulation": {"accumulation": 2},
    "hidden_schedule": {"schedule": {"name": "constant", "warmup_steps": 3}},
}


@contextlib.contextmanager
def _changed(arm: str) -> Iterator[None]:
    with CHANGES[arm]() if arm in CHANGES else contextlib.nullcontext():
        yield


def main(*files: str) -> None:
    """Run every plan's first trial."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks.joined(torch.device("cpu"), 300)
    for plan_file, ledger_folder in zip(files[::2], files[1::2], strict=True):
        _run_trial(Plan.model_validate_json(Path(plan_file).read_bytes()), Ledger(Path(ledger_folder)), ranks)
    dist.destroy_process_group()


def _run_trial(plan: Plan, ledger: Ledger, ranks: Ranks) -> None:
    """Run the first trial's legs, each in a run of its own so that a change lasts for one leg."""
    trial = plan.trials[0]

    def record(done: Leg, outcome: Outcome) -> None:
        ledger.add(plan.sweep, plan.space, trial, done, outcome)

    for planned in trial.legs:
        changed = SETTINGS.get(planned.arm_name, {})
        setting = type(planned.setting).model_validate({**planned.setting.model_dump(), **changed})
        with _changed(planned.arm_name):
            run_legs([(trial, [planned.model_copy(update={"setting": setting})])], ranks, lambda _: None, record)


if __name__ == "__main__":
    main(*sys.argv[1:])
