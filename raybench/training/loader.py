"""The order in which each rank sees the training images: the same seeded one in every arm of a trial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from raybench.declare.datasets import facts_of
from raybench.declare.setting import Augmentation, Setting
from raybench.errors import BadData
from raybench.training.datasets import num_samples, training_data
from raybench.training.transforms import Mixing, SeededOrder

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (batch, channels, side, side) float32; labels (batch,) int64, or (batch, classes) float32 where mixed."""


class Batches:
    """One rank's micro-batches on the device: epoch by epoch, or as one endless iterator over epochs.

    `synthetic` gives one batch that already lies on the device; everything else goes through a DataLoader
    over a DistributedSampler, reshuffled each epoch from the trial's seed. Raises BadData where there is too little
    data for a step.
    """

    def __init__(self, setting: Setting, rank: int, seed: int, device: torch.device) -> None:
        self.device = device
        self.accumulation = setting.accumulation
        self.augmentation: dict[str, Any] = setting.augmentation.model_dump(mode="json", exclude_defaults=True)
        data = training_data(setting)
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            data, num_replicas=setting.workers, rank=rank, shuffle=True, seed=seed, drop_last=True
        )
        augmented = setting.augmentation != Augmentation()
        workers = setting.loader_workers
        classes = facts_of(setting.dataset, setting.data_root).classes
        self.loader: DataLoader[Any] = DataLoader(
            data,
            batch_size=setting.micro_batch,
            sampler=SeededOrder(self.sampler, num_samples(data), seed) if augmented else self.sampler,
            collate_fn=Mixing(setting.augmentation, classes) if augmented else None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=setting.prefetch_factor if workers else None,
            persistent_workers=workers > 0,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )
        if self.steps_per_epoch == 0:
            raise BadData(
                f"{setting.dataset}: {num_samples(data)} images are fewer than one global batch of {setting.batch_size}"
            )
        self.on_device = setting.dataset == "synthetic"
        self.memory_format = torch.channels_last if setting.channels_last else torch.preserve_format
        self.epochs_begun = 0
        self._held: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.epoch()

    def epoch(self) -> Iterator[Batch]:
        """The next epoch's micro-batches; the sampler's epoch is set and the loader begun when the first is asked for.

        What of an epoch does not fill a step is left out by who counts `steps_per_epoch`.
        """
        self.sampler.set_epoch(self.epochs_begun)
        self.epochs_begun += 1
        if not self.on_device:
            yield from self._loaded()
            return
        if self._held is None:
            self._held = next(self._loaded())
        yield from itertools.repeat(self._held, len(self.loader))

    def _loaded(self) -> Iterator[Batch]:
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True, memory_format=self.memory_format)
            yield images, labels.to(self.device, non_blocking=True)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that one epoch's images fill."""
        return len(self.loader) // self.accumulation

    @property
    def samples_per_epoch(self) -> int:
        """Images of one epoch that this rank sees."""
        return len(self.loader) * (self.loader.batch_size or 1)
