"""The contract of a task, with defaults for everything else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler, default_collate

from raybench.declare.memory_need import Shape
from raybench.declare.setting import Setting
from raybench.errors import BadData
from raybench.training.tasks import trees
from raybench.training.tasks.trees import Tree

Forward = Callable[..., Any]
"""The model as the engine runs it: takes what the model's own forward takes."""
Options = dict[str, Any]


class Task:
    """How a batch becomes a loss.

    A user's task implements `build_model`, `dataset` and `loss`. Everything must follow from the setting and torch's
    random state alone: each arm of a trial gets its own task, and their batches must be equal.
    """

    unit: ClassVar[str] = "samples"  # what counts as a sample

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model_options: Options = dict(setting.model_options)  # the options the model was built with, once it is

    def build_model(self) -> nn.Module:
        """The model on torch's default device, from torch's current random state."""
        raise NotImplementedError(f"{type(self).__name__} has no build_model()")

    def dataset(self, *, train: bool) -> Dataset[Any]:
        """The training samples, or the held-out ones: a map-style dataset."""
        raise NotImplementedError(f"{type(self).__name__} has no dataset()")

    def loss(self, model: Forward, batch: Tree) -> torch.Tensor:
        """The mean loss of a batch, a scalar."""
        raise NotImplementedError(f"{type(self).__name__} has no loss()")

    def prepare_scores(self) -> None:
        """Import what `score` needs, before anything is timed."""

    def score(self, model: Forward, batch: Tree, counted: int) -> dict[str, torch.Tensor]:
        """Sums over the first `counted` samples of a held-out batch, scalars; at least `loss`."""
        few = trees.first(batch, max(counted, 1))  # a forward pass may be collective, so it always runs
        return {"loss": self.loss(model, few) * counted}

    def results(self, sums: dict[str, float]) -> dict[str, float | None]:
        """An evaluation's results from the sums over all samples: fields of `Evaluation`, at least `loss`."""
        return {"loss": sums["loss"] / sums["samples"]}

    @property
    def one_batch(self) -> bool:
        """Whether all steps use the same batch, which stays on the device."""
        return False

    def order(self, sampler: Sampler[int], seed: int) -> Sampler[Any]:
        """The keys for reading `dataset`, in the order of `sampler`."""
        return sampler

    def collate(self) -> Callable[[list[Any]], Tree] | None:
        """A function that makes a batch from samples; None for torch's default."""
        return None

    def fetch(self) -> None:
        """Download the data where the setting allows it. Raises BadData."""

    def check_data(self, *, test_too: bool, rank: int = 0, world: int = 1) -> None:
        """Raise BadData unless there are samples for a step. Each rank does its share of slow checks."""
        smallest = self.setting.workers if self.setting.batch_size == "max" else self.setting.global_batch
        for train, needed in ((True, smallest), (False, 1))[: 2 if test_too else 1]:
            size = self.num_samples(train=train)
            if size < needed:
                which = "training" if train else "held-out"
                raise BadData(f"{self.setting.dataset}: {size} {which} {self.unit} are fewer than {needed}")

    def problem(self) -> str:
        """What is wrong with the model or the task, tried on one small batch; empty where nothing is."""
        name, again = self.setting.task, type(self)(self.setting)
        if not self.num_samples(train=True):
            return f"{name}: there are no training {self.unit}"
        batches = [_small_batch(task) for task in (self, again)]
        pairs = zip(*map(trees.tensors, batches), strict=False)
        if not all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs):
            return f"{name}: its samples change every time they are read; arms would train on different batches"
        with torch.random.fork_rng(devices=[]):
            model = self.build_model()
            if not isinstance(model, nn.Module):
                return f"{name}: build_model gives {type(model).__name__}, not a torch.nn.Module"
            loss = self.loss(model.train(), batches[0])
        if not isinstance(loss, torch.Tensor):
            return f"{name}: its loss is {type(loss).__name__}, not a tensor"
        if loss.dim():
            return f"{name}: its loss has the shape {tuple(loss.shape)}; it must be a scalar, the mean over the batch"
        return "" if loss.requires_grad else f"{name}: its loss does not depend on the model's parameters"

    def num_samples(self, *, train: bool) -> int:
        """How many samples there are."""
        return len(self.dataset(train=train))  # type: ignore[arg-type]

    def data_digest(self) -> str:
        """16 hexadecimal digits that identify the training data."""
        digest = hashlib.sha256(str(self.num_samples(train=True)).encode())
        for tensor in trees.tensors(_small_batch(self)):
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def batch_facts(self, batch: Tree) -> dict[str, Any]:
        """Facts about a batch, which must be equal in all arms."""
        return {"batch_shapes": [list(tensor.shape[1:]) for tensor in trees.tensors(batch)]}

    def shape(self, model_facts: dict[str, Any]) -> Shape | None:
        """A transformer's sizes, for predicting its activations; None for other models."""
        return None

    def work_facts(self, model: nn.Module, model_facts: dict[str, Any]) -> dict[str, Any]:
        """How much there is to compute, from the model on the host and its facts; empty where unknown."""
        return {}


def logits_of(output: Any) -> torch.Tensor:
    """The logits of a model's output: the output itself, or its `logits` (Hugging Face). Raises ValueError."""
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"the model gives {type(output).__name__}, neither logits nor an output with .logits")
    return logits


def _small_batch(task: Task) -> Tree:
    data = task.dataset(train=True)
    samples = [data[index] for index in range(min(2, task.num_samples(train=True)))]
    return (task.collate() or default_collate)(samples)
