"""What engines' evaluations say, beside plain PyTorch's: `torchrun ... -m tests.training.evaluations OUT.json ROOT`.

ROOT/N holds MNIST-format data with N test images. Rank 0 writes (engine, N) as "engine N" -> {"evaluation", "plain"},
and what the BatchNorm buffers were.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import nn
from torch.nn.functional import cross_entropy

from raybench.declare.arms import Arm
from raybench.declare.plan import Leg
from raybench.declare.setting import Setting
from raybench.training.engines import Engine, build_engine
from raybench.training.engines.deepspeed_ops import import_deepspeed
from raybench.training.evaluation import Evaluator
from raybench.training.loader import Batches
from raybench.training.loop import run_steps
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import HostClock
from raybench.training.tasks import build_task
from raybench.training.tasks.images import evaluation_data

ARMS: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "torch", "broadcast_buffers": True},
    "fsdp": {"engine": "fsdp"},
    "zero3": {"engine": "deepspeed", "zero": 3},
}


def main(out_file: str, root: str) -> None:
    """Evaluate every engine on every test split of `root`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks.joined(torch.device("cpu"), 300)
    import_deepspeed(ranks)
    found: dict[str, Any] = {}
    for folder in sorted(Path(root).iterdir()):
        for name, arm in ARMS.items():
            setting = Setting(
                model="lenet", dataset="mnist", data_root=str(folder), batch_size=4 * ranks.world, workers=ranks.world
            )
            model = _model(setting)
            plain = _plain(copy.deepcopy(model), setting)
            engine = _engine(arm, setting, model, ranks)
            result = Evaluator(build_task(setting), ranks).evaluate(engine, model)
            assert all(module.training for module in model.modules())
            engine.destroy()
            found[f"{name} {folder.name}"] = {"evaluation": asdict(result), "plain": plain}
    if ranks.world > 1:
        found["buffers"] = _buffers(ranks, Path(root))
    if ranks.rank == 0:
        Path(out_file).write_text(json.dumps(found))
    dist.destroy_process_group()


def _model(setting: Setting) -> nn.Module:
    torch.manual_seed(5)
    return build_task(setting).build_model().train()


def _engine(arm: dict[str, Any], setting: Setting, model: nn.Module, ranks: Ranks) -> Engine:
    parsed: Arm = TypeAdapter(Arm).validate_python(arm)
    leg = Leg(leg_id="", arm_name="", arm=parsed, is_baseline=False, setting=setting, round=0, position=0)
    return build_engine(leg, model, ranks.device)


def _plain(model: nn.Module, setting: Setting) -> dict[str, float]:
    """Loss and accuracies of the model on the whole test split in one batch, by hand."""
    data: Any = evaluation_data(setting)
    images = torch.stack([data[i][0] for i in range(len(data))])
    labels = torch.tensor([int(data[i][1]) for i in range(len(data))])
    with torch.no_grad():
        logits = model.eval()(images)
    order = logits.argsort(1, descending=True)
    return {
        "num_samples": len(data),
        "loss": float(cross_entropy(logits, labels)),
        "accuracy": float((order[:, 0] == labels).float().mean()),
        "accuracy_top5": float((order[:, :5] == labels[:, None]).any(1).float().mean()),
    }


def _buffers(ranks: Ranks, root: Path) -> dict[str, Any]:
    """A network with BatchNorm that trained a little, so that each rank has running statistics of its own."""
    setting = Setting(
        model="test_resnet", dataset="digits", image_size=32, batch_size=8 * ranks.world, workers=ranks.world
    )
    model = _model(setting)
    engine = _engine({"engine": "torch"}, setting, model, ranks)
    task = build_task(setting)
    stream = iter(Batches(task, ranks.rank, 0, ranks.device))
    run_steps(engine, stream, task.loss, HostClock(), num_steps=3, accumulation=1, phases=False)
    before = [buffer.clone() for buffer in model.buffers()]
    result = Evaluator(build_task(setting), ranks).evaluate(engine, model)
    kept = all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    plain = _plain(copy.deepcopy(model), setting)
    norms = ranks.gather(sum(float(buffer.double().sum()) for buffer in before))
    return {"evaluation": asdict(result), "plain": plain, "kept": all(ranks.gather(kept)), "norms": norms}


if __name__ == "__main__":
    main(*sys.argv[1:])
