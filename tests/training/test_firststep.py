"""The look at a leg's first step: what it sees, and that what it cannot see costs a fact and never the leg."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from raybench.errors import NotReadable
from raybench.training.firststep import NormsAlone, Probed, gradient_norm
from raybench.training.gradients import Gradients
from raybench.training.memory import checksum
from raybench.training.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"), None)


class Engine:
    """A model whose gradients are shown as told; notes that its step was taken."""

    def __init__(self, gradients: Gradients | Exception, held: Exception | None = None) -> None:
        self.shown, self.refusal, self.steps = gradients, held, 0

    def gradients(self) -> Gradients:
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown

    def held(self) -> dict[str, Any]:
        if self.refusal:
            raise self.refusal
        return {"parameters": [torch.zeros(4)], "gradients": [torch.zeros(2)]}

    def forward(self, images: torch.Tensor, *, last: bool) -> torch.Tensor:
        return images

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        pass

    def step(self) -> None:
        self.steps += 1


def looked_at(engine: Engine) -> Probed:
    probed = Probed(engine, nn.BatchNorm2d(3).to(torch.bfloat16), ALONE)  # type: ignore[arg-type]
    probed.step()
    assert engine.steps == 1
    return probed


def test_norm_and_types_come_from_where_the_engine_keeps_its_gradients() -> None:
    parts = [torch.tensor([3.0], dtype=torch.bfloat16), torch.tensor(4.0)]
    facts = looked_at(Engine(Gradients(parts, sharded=False, scale=2.0))).facts()
    assert facts["first_gradient_norm"] == pytest.approx(2.5)
    assert facts["gradient_dtype"] == "bfloat16,float32"
    assert facts["buffer_dtype"] == "bfloat16"  # the count of batches, a whole number, is not told
    assert facts["informative"] == {}


def test_the_type_in_which_micro_batches_were_added_up_is_told() -> None:
    added_up = Gradients([torch.tensor(5.0)], sharded=False, added_up_in=frozenset({torch.bfloat16}))
    assert looked_at(Engine(added_up)).facts()["gradient_dtype"] == "bfloat16,float32"


def test_sparse_complex_and_strided_gradients_have_a_norm() -> None:
    twice = torch.tensor([1.0, 2.0, 4.0])  # the first two at one place: 3 and 4
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], twice, (5,), check_invariants=True)
    others = [torch.tensor([3 + 4j]), torch.ones(4, 6)[:, ::2]]
    for tensors, norm in (([sparse], 5), (others, 37**0.5)):
        engine: Any = Engine(Gradients(tensors, sharded=False))
        assert gradient_norm(engine, ALONE) == pytest.approx(norm)


def test_norms_are_looked_at_step_by_step_and_the_steps_are_taken() -> None:
    engine = Engine(Gradients([torch.tensor([3.0, 4.0])], sharded=False))
    probed = looked_at(engine)
    later = NormsAlone(engine, probed)  # type: ignore[arg-type]
    engine.shown = Gradients([torch.tensor([6.0, 8.0])], sharded=False)
    later.step()
    engine.shown = RuntimeError("gone")
    later.step()
    assert engine.steps == 3
    assert probed.gradient_norms == pytest.approx([5.0, 10.0, float("nan")], nan_ok=True)
    assert "gone" in probed.facts()["informative"]["not_readable"]["gradient_norms"]


def test_the_norm_of_a_large_partition_is_that_of_its_parts() -> None:
    """In single precision a processor's sum over eight million values is off by 2e-4."""
    values = torch.randn(8_000_000, generator=torch.Generator().manual_seed(0))
    engine: Any = Engine(Gradients([values], sharded=False))
    pieces: Any = Engine(Gradients(list(values.split(1000)), sharded=False))
    assert gradient_norm(engine, ALONE) == pytest.approx(gradient_norm(pieces, ALONE), rel=1e-7)


@pytest.mark.parametrize("error", [NotReadable("it averages in its step"), RuntimeError("size of tensor a")])
def test_gradients_that_cannot_be_read_cost_a_fact_with_its_reason(error: Exception) -> None:
    probed = looked_at(Engine(error))
    assert probed.gradient_norm is None
    facts = probed.facts()
    assert "first_gradient_norm" not in facts
    assert "gradient_dtype" not in facts
    assert str(error) in facts["informative"]["not_readable"]["first_gradient_norm"]


def test_an_engine_that_cannot_be_looked_into_holds_unknown_bytes() -> None:
    probed = looked_at(Engine(Gradients([torch.ones(1)], sharded=False), held=AttributeError("no groups")))
    assert probed.memory_parts()["parameters"] is None
    assert "no groups" in probed.facts()["informative"]["not_readable"]["memory_parts"]


@pytest.mark.parametrize(
    "parameter",
    [
        torch.tensor(-2.0), torch.ones(2, dtype=torch.bfloat16), torch.ones(3, 5).t(), torch.tensor([3 + 4j]),
        torch.arange(12.0)[1:], torch.arange(9, dtype=torch.float16)[3:], torch.arange(5, dtype=torch.uint8)[2:],
    ],
)  # fmt: skip
def test_a_checksum_changes_with_every_value_of_every_kind_of_parameter(parameter: torch.Tensor) -> None:
    before = checksum([torch.ones(3), parameter])
    for place in itertools.product(*map(range, parameter.shape)):
        kept = parameter[place].clone()
        parameter[place] += 1
        assert checksum([torch.ones(3), parameter]) != before
        parameter[place] = kept
    assert checksum([torch.ones(3), parameter]) == before
