"""Image classification with cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Sampler

from raybench.declare.datasets import facts_of
from raybench.declare.setting import Augmentation, Setting
from raybench.training.models import named
from raybench.training.models.torchvision_ops import declare_missing
from raybench.training.tasks import images
from raybench.training.tasks.task import Forward, Task, logits_of
from raybench.training.tasks.transforms import Mixing, SeededOrder

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (batch, channels, side, side) float32; labels (batch,) int64, or (batch, classes) float32 where mixed."""


class Classification(Task):
    """Image classification: a model turns images into logits, which get a cross entropy."""

    unit: ClassVar[str] = "images"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._stat_scores: Any = None

    @property
    def classes(self) -> int:
        """How many classes the dataset has."""
        return facts_of(self.setting.dataset, self.setting.data_root).classes

    def build_model(self) -> nn.Module:
        model, self.model_options = named.build_model(self.setting)
        return model

    def dataset(self, *, train: bool) -> Dataset[Any]:
        return images.training_data(self.setting) if train else images.evaluation_data(self.setting)

    def loss(self, model: Forward, batch: Batch) -> torch.Tensor:
        """Cross entropy in fp32, whatever the engine computes in, outside any autocast: the same in every arm."""
        images, labels = batch
        return cross_entropy(logits_of(model(images)).float(), labels)

    def prepare_scores(self) -> None:
        declare_missing()  # torchmetrics imports torchvision
        from torchmetrics.functional.classification import multiclass_stat_scores

        self._stat_scores = multiclass_stat_scores

    def score(self, model: Forward, batch: Batch, counted: int) -> dict[str, torch.Tensor]:
        images, labels = batch
        logits = logits_of(model(images)).float()[:counted]
        labels = labels[:counted]
        if not counted:
            return {}
        return {
            "loss": cross_entropy(logits, labels, reduction="sum"),
            "top1": self._right(logits, labels, 1),
            "top5": self._right(logits, labels, min(5, self.classes)),
        }

    def _right(self, logits: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
        """How many labels are among the k largest logits."""
        scores: torch.Tensor = self._stat_scores(
            logits, labels, self.classes, average="micro", top_k=k, validate_args=False
        )
        return scores[0]

    def results(self, sums: dict[str, float]) -> dict[str, float | None]:
        samples = sums["samples"]
        return {
            "loss": sums["loss"] / samples,
            "accuracy": sums["top1"] / samples,
            "accuracy_top5": sums["top5"] / samples if self.classes > 5 else None,
        }

    @property
    def one_batch(self) -> bool:
        return self.setting.dataset == "synthetic"

    def order(self, sampler: Sampler[int], seed: int) -> Sampler[Any]:
        if self.setting.augmentation == Augmentation():
            return sampler
        return SeededOrder(sampler, self.num_samples(train=True), seed)  # type: ignore[arg-type]

    def collate(self) -> Callable[[list[Any]], Batch] | None:
        if self.setting.augmentation == Augmentation():
            return None
        return Mixing(self.setting.augmentation, self.classes)

    def fetch(self) -> None:
        images.fetch(self.setting)

    def check_data(self, *, test_too: bool, rank: int = 0, world: int = 1) -> None:
        images.check_data(self.setting, test_too=test_too, rank=rank, world=world)

    def problem(self) -> str:
        return named.inspect_model(self.setting).problem

    def data_digest(self) -> str:
        return images.data_digest(self.setting)

    def batch_facts(self, batch: Batch) -> dict[str, Any]:
        return {
            "image_shape": list(batch[0].shape[1:]),
            "augmentation": self.setting.augmentation.model_dump(mode="json", exclude_defaults=True),
        }

    def work_facts(self, model: nn.Module, model_facts: dict[str, Any]) -> dict[str, Any]:
        return named.work_facts(self.setting, model_facts["num_parameters"])
