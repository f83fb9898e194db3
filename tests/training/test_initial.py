"""The model that a trial's arms begin with: copies of one, equal to the bit and to the random number after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from raybench.declare.setting import Setting
from raybench.training.facts import weights_hash
from raybench.training.initial import InitialModel
from raybench.training.leg import seed_everything
from raybench.training.tasks import build_task

LENET: dict[str, Any] = {"model": "lenet", "dataset": "digits", "batch_size": 2}
GPT: dict[str, Any] = {
    "model": "hf/gpt2", "model_options": {"n_embd": 16, "n_layer": 1, "n_head": 1}, "dataset": "pydoc",
    "sequence_length": 16, "batch_size": 2,
}  # fmt: skip
RESNET: dict[str, Any] = {"model": "test_resnet", "dataset": "digits", "small_images": "none", "batch_size": 2}


def begun(initial: InitialModel, fields: dict[str, Any], seed: int = 5) -> tuple[torch.nn.Module, Any, Any]:
    """A leg's model, its task, and the random numbers after it."""
    setting = Setting.model_validate(fields)
    task = build_task(setting)
    seed_everything(seed)
    model = initial.of(task, setting, seed)
    return model, task, (torch.rand(3).tolist(), np.random.rand(3).tolist())


@pytest.mark.parametrize("fields", [LENET, GPT, RESNET], ids=["lenet", "gpt", "resnet"])
def test_every_leg_begins_as_one_that_builds_its_own_model(fields: dict[str, Any]) -> None:
    setting = Setting.model_validate(fields)
    seed_everything(5)
    own_task = build_task(setting)
    own = own_task.build_model()
    after = torch.rand(3).tolist(), np.random.rand(3).tolist()
    initial = InitialModel()
    first, task, numbers = begun(initial, fields)
    assert weights_hash(first) == weights_hash(own)
    assert task.model_options == own_task.model_options
    assert numbers == after
    with torch.no_grad():  # a leg trains its model
        for parameter in first.parameters():
            parameter.add_(1.0)
    second, task, numbers = begun(initial, fields)
    assert weights_hash(second) == weights_hash(own)
    assert task.model_options == own_task.model_options
    assert numbers == after
    everything = {**dict(own.named_buffers()), **dict(own.named_parameters())}  # buffers that are not saved, too
    for name, value in [*second.named_buffers(), *second.named_parameters()]:
        assert torch.equal(value, everything[name]), name
        assert value.stride() == everything[name].stride()
    assert len(list(second.parameters())) == len(list(own.parameters())), "tied weights stay tied"
    assert initial.num_bytes == sum(t.nbytes for t in [*own.parameters(), *own.buffers()])


def test_another_seed_and_another_setting_are_other_models() -> None:
    initial = InitialModel()
    hashes = {weights_hash(begun(initial, LENET, seed)[0]) for seed in (1, 2)}
    assert len(hashes) == 2
    assert weights_hash(begun(initial, LENET, 1)[0]) in hashes


def test_a_model_too_large_to_keep_is_built_each_time_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = begun(InitialModel(), LENET)
    monkeypatch.setattr("raybench.training.initial._MOST_OF_FREE_MEMORY", 0.0)
    initial = InitialModel()
    for model, _, numbers in (begun(initial, LENET), begun(initial, LENET)):
        assert (weights_hash(model), numbers) == (weights_hash(kept[0]), kept[2])
    assert initial.num_bytes == 0


def test_a_users_model_is_built_each_time() -> None:
    """It may hold on to itself where a copy does not reach: in a closure, say."""
    initial = InitialModel()
    fields = {**LENET, "model": "tests.training.test_initial:closed", "model_options": {}}
    model, *_ = begun(initial, fields)
    begun(initial, fields)
    assert initial.num_bytes == 0
    with torch.no_grad():
        model.layer.weight.zero_()  # type: ignore[union-attr,operator]
        assert model(torch.ones(1, 3, 32, 32)).abs().sum() == 0


class Closed(torch.nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 32 * 32, classes, bias=False)
        self.run = lambda images: self.layer(images.flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.run(images)
        return out


def closed(num_classes: int, in_chans: int, image_size: int) -> torch.nn.Module:
    return Closed(num_classes)
