"""`mixed_precision: cast` treats every arm alike: parameters and running statistics are lowered, other buffers kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.ledger.reading import read_ledger
from raybench.training.engines.lowering import lower_parameters, lower_statistics
from tests.training.torchrun import torchrun

SPACE = """
setting:
  {model: "tests.training.listed:build", dataset: digits, batch_size: 16, workers: 2, device: cpu, precision: bf16,
   mixed_precision: cast}
arms:
  ddp: {engine: torch}
  fsdp: {engine: fsdp}
  zero3: {engine: deepspeed, zero: 3}
  robin: {engine: deepspeed, zero: 2, config: {zero_optimization: {round_robin_gradients: true}}}
  unmanaged: {engine: deepspeed, zero: 0, config: {managed_gradient_accumulation: false}}
protocol: {warmup_steps: 1, steps: 2, rounds: 1, telemetry: false}
repeats: 2
"""


def test_frequencies_stay_and_tied_weights_stay_tied() -> None:
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(4), "in": nn.Linear(4, 4), "out": nn.Linear(4, 4)})
    model["out"].weight = model["in"].weight
    model["norm"].register_buffer("frequencies", torch.ones(4))
    lower_parameters(model, torch.bfloat16)
    lower_statistics(model.modules(), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model["out"].weight is model["in"].weight
    types = {name: buffer.dtype for name, buffer in model.named_buffers()}
    assert types == {
        "norm.running_mean": torch.bfloat16, "norm.running_var": torch.bfloat16,
        "norm.num_batches_tracked": torch.int64, "norm.frequencies": torch.float32,
    }  # fmt: skip
    assert model["norm"](torch.randn(3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.distributed
@pytest.mark.slow
def test_lists_of_modules_and_batchnorm_train_in_every_engine_and_the_probe_costs_no_leg(tmp_path: Path) -> None:
    (tmp_path / "listed.yaml").write_text(SPACE)
    plan = build_plan(*load_space(str(tmp_path / "listed.yaml")))
    one = plan.model_copy(update={"trials": plan.trials[:1]})
    (tmp_path / "plan.json").write_text(one.model_dump_json())
    torchrun(2, "raybench.training", str(tmp_path / "plan.json"), f"ledger={tmp_path / 'ledger'}")
    rows = {row["arm"]: row for row in read_ledger(tmp_path / "ledger").to_pylist()}
    assert {arm: row["status"] for arm, row in rows.items()} == dict.fromkeys(rows, "ok")
    assert len(rows) == 5
    facts = {arm: json.loads(row["facts"]) for arm, row in rows.items()}
    assert {arm: found["buffer_dtype"] for arm, found in facts.items()} == dict.fromkeys(rows, "bfloat16")
    assert {found["initial_weights"] for found in facts.values()} == {facts["ddp"]["initial_weights"]}
