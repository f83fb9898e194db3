"""Memory: who holds what on a rank, by hand and in real engines; peaks that show what is hidden, leg by leg."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from raybench.declare.plan import build_plan
from raybench.declare.space import Space
from raybench.training.memory import SavedForBackward, bytes_by_part, release
from tests.training.torchrun import torchrun

CPU = torch.device("cpu")


def test_a_storage_counts_once_for_the_first_part_that_has_it() -> None:
    flat = torch.zeros(100)
    views = [flat[:60].view(6, 10), flat[60:]]
    held = {"parameters": views, "gradients": [torch.zeros(10)], "master_weights": views, "optimizer_state": None}
    found = bytes_by_part(held, CPU)
    assert found == {
        "parameters": 400, "gradients": 40, "master_weights": 0, "optimizer_state": None, "offloaded": None,
    }  # fmt: skip


def test_what_lies_in_host_memory_beside_an_accelerator_is_offloaded() -> None:
    on_device = torch.zeros(8, device="meta")
    held = {"parameters": [on_device], "gradients": [], "master_weights": [torch.zeros(5)], "optimizer_state": []}
    assert bytes_by_part(held, torch.device("meta"))["offloaded"] == 20


def test_activations_are_what_backward_needs_but_the_input_and_the_weights() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 4), nn.Sigmoid())
    saved, images = SavedForBackward(model), torch.randn(16, 8)
    with saved.watch(images):
        model(images).sum().backward()
    # The input of the second layer is the first sigmoid's output, which that keeps too.
    assert saved.num_bytes == 4 * (16 * 32 + 16 * 4)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model)


ARMS = {
    "ddp": {"engine": "torch"},
    "hidden_memory": {"engine": "torch"},
    "fsdp": {"engine": "fsdp"},
    "zero1": {"engine": "deepspeed", "zero": 1},
    "zero3": {
        "engine": "deepspeed",
        "config": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}},
    },
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("memory")
    setting = {
        "model": "resnet18", "dataset": "synthetic", "image_size": 32, "batch_size": 8, "workers": 2,
        "optimizer": {"name": "adamw"},
    }  # fmt: skip
    space = Space.model_validate(
        {"setting": setting, "arms": ARMS, "protocol": {"warmup_steps": 1, "steps": 2, "rounds": 2}, "repeats": 1}
    )
    (folder / "plan.json").write_text(build_plan("memory", space).model_dump_json())
    torchrun(2, "tests.training.hidden", str(folder / "plan.json"), str(folder / "led"))
    found = pq.read_table(folder / "led").to_pylist()
    assert [row["failure_message"] for row in found] == [None] * 10
    return sorted(found, key=lambda row: row["position"])


def parts_of(rows: list[dict[str, Any]], arm: str) -> dict[str, list[int | None]]:
    found = [json.loads(row["memory_parts"]) for row in rows if row["arm"] == arm]
    assert found[0] == found[1], "every leg of an arm holds the same"
    return found[0]


@pytest.mark.distributed
@pytest.mark.slow
def test_zero_1_halves_the_optimizer_state_and_zero_3_the_parameters_too(rows: list[dict[str, Any]]) -> None:
    weights = 4 * json.loads(rows[0]["facts"])["num_parameters"]
    ddp, fsdp, zero1, zero3 = (parts_of(rows, arm) for arm in ("ddp", "fsdp", "zero1", "zero3"))
    for part, whole in (("parameters", 1), ("gradients", 1), ("optimizer_state", 2)):
        assert ddp[part] == pytest.approx([whole * weights] * 2, rel=0.01)
        assert fsdp[part] == pytest.approx([whole * weights / 2] * 2, rel=0.02)
    assert ddp["master_weights"] == [0, 0]
    assert zero1["parameters"] == pytest.approx(ddp["parameters"], rel=0.01)
    assert zero1["optimizer_state"] == pytest.approx([weights] * 2, rel=0.01)
    assert zero1["master_weights"] == pytest.approx([weights / 2] * 2, rel=0.01)
    assert zero3["parameters"] == pytest.approx([weights / 2] * 2, rel=0.02)
    assert zero3["optimizer_state"] == pytest.approx(zero1["optimizer_state"], rel=0.01)
    # The same layers keep the same for the backward pass, whoever trains them.
    assert ddp["activations"] == zero1["activations"] == zero3["activations"] == fsdp["activations"]


@pytest.mark.distributed
@pytest.mark.slow
def test_hidden_memory_shows_in_its_own_legs_alone(rows: list[dict[str, Any]]) -> None:
    peaks: dict[str, list[int]] = {}
    for row in rows:
        peaks.setdefault(row["arm"], []).append(row["peak_host_bytes"])
        assert row["peak_host_bytes"] <= row["peak_host_bytes_sum"] <= 2 * row["peak_host_bytes"]
        assert row["peak_device_bytes"] is row["peak_device_reserved_bytes"] is row["allocation_retries"] is None
        assert row["skipped_steps"] == 0
        assert row["matmul_tflops"] > 0
    # Round 2 is round 1 reversed, so a leg of ddp comes after one with the ballast: its peak is its own again.
    # What earlier legs left in the allocator takes up a part of the ballast, so its peak shows less than all of it.
    for plain, ballast in zip(peaks["ddp"], peaks["hidden_memory"], strict=True):
        assert 0.5 * 200e6 < ballast - plain < 1.3 * 200e6


class Width(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(8, width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values).relu()


def test_a_compiled_model_is_compiled_anew_in_every_leg() -> None:
    """Else torch makes kernels for batches of any size from the second size on, and compiles no ninth width."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Any:
        made.append(graph)
        return graph.forward

    for number in range(1, 13):
        model = Width(number)
        model.compile(backend=backend)
        model(torch.zeros(8 * number, 8))
        assert len(made) == number
        del model
        release(CPU)
    assert not any(isinstance(node.meta["example_value"], torch.SymInt) for g in made for node in _inputs_of(g))


def _inputs_of(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]
