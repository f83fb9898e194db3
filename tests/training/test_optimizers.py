"""Optimizers and schedules as built, and as their facts tell them; the blocks of models."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from raybench.declare.setting import Optimizer, Schedule
from raybench.training.engines.optimizers import (
    StepCounter,
    build_optimizer,
    build_scheduler,
    optimizer_facts,
    schedule_facts,
    state_dtypes,
)
from raybench.training.models.layers import blocks_of, checkpoint_activations, num_checkpointed
from raybench.training.models.lenets import LeNet


def built(**choice: object) -> torch.optim.Optimizer:
    parameter = nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.full((3, 2), 0.5)
    return build_optimizer(TypeAdapter(Optimizer).validate_python(choice), [parameter])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("kernel", "told"), [("foreach", "foreach"), ("fused", "fused"), ("for-loop", "for-loop"), ("auto", "for-loop")]
)
def test_the_kernel_asked_for_is_the_one_found(name: str, kernel: str, told: str) -> None:
    assert optimizer_facts(built(name=name, kernel=kernel))["kernel"] == told  # auto: as torch does on a CPU


def test_every_hyper_parameter_comes_from_the_setting() -> None:
    sgd = optimizer_facts(built(name="sgd", lr=0.2, momentum=0.8, nesterov=True, weight_decay=0.03))
    assert sgd == {
        "class": "SGD", "kernel": "foreach", "lr": 0.2, "momentum": 0.8, "dampening": 0.0, "nesterov": True,
        "weight_decay": 0.03, "maximize": False,
    }  # fmt: skip
    adamw = optimizer_facts(built(name="adamw", lr=0.2, betas=(0.8, 0.9), eps=1e-6))
    assert adamw["class"] == "AdamW"
    assert (adamw["betas"], adamw["eps"], adamw["weight_decay"]) == ([0.8, 0.9], 1e-6, 0.0)  # torch's own is 0.01
    lamb = optimizer_facts(built(name="lamb", weight_decay=0.1))
    assert (lamb["class"], lamb["kernel"], lamb["max_grad_norm"]) == ("Lamb", "foreach", None)  # timm's own is 1.0


def test_parameter_groups_that_differ_are_told_apart() -> None:
    optimizer = built(name="adamw")
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.5})
    assert optimizer_facts(optimizer)["weight_decay"] == [0.0, 0.5]


def test_steps_are_counted_and_states_have_types() -> None:
    optimizer = built(name="adamw")
    counter = StepCounter(optimizer)
    assert state_dtypes(optimizer) == []
    optimizer.step()
    optimizer.step()
    counter.remove()
    optimizer.step()
    assert counter.taken == 2
    assert set(state_dtypes(optimizer)) == {torch.float32}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(warmup_steps=3), [0.25, 0.5, 0.75, 1, 1, 1]),
        (Schedule(name="linear", total_steps=4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (Schedule(name="cosine", warmup_steps=1, total_steps=5),
         [0.5, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2, 0]),
    ],
)  # fmt: skip
def test_schedules_by_hand(schedule: Schedule, expected: list[float]) -> None:
    optimizer = built(name="sgd", lr=0.2)
    scheduler = build_scheduler(schedule, optimizer)
    assert scheduler is not None
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.2 * factor for factor in expected], abs=1e-12)
    facts = schedule_facts(scheduler, optimizer)
    assert facts == {**schedule.model_dump(), "lr": optimizer.param_groups[0]["lr"]}
    assert optimizer_facts(optimizer)["lr"] == pytest.approx(0.2)  # what the schedule starts from


def test_a_constant_rate_costs_no_scheduler() -> None:
    assert build_scheduler(Schedule(), built(name="sgd")) is None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def test_blocks_are_the_outermost_repeated_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleList([Block(), Block()])[0], Block(), nn.Sequential(Block()))
    assert [type(block) for block in blocks_of(model)] == [Block, Block, Block]
    lenet = LeNet(3, 10, 32)
    assert blocks_of(lenet) == [lenet.features, lenet.classifier]  # nothing is repeated: the direct children


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    model, images = LeNet(3, 10, 32), torch.randn(2, 3, 32, 32)
    model(images).square().sum().backward()
    plain = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    assert num_checkpointed(model) == 0
    checkpoint_activations(model)
    assert num_checkpointed(model) == 2
    model(images).square().sum().backward()
    again = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(plain) == len(again) == 10
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
