"""The order in which each rank sees the training samples: the same seeded one in every arm of a trial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from raybench.errors import BadData
from raybench.training.tasks.task import Task
from raybench.training.tasks.trees import Tree, move


class Batches:
    """One rank's micro-batches on the device: by epoch, or as one endless iterator over epochs.

    A task with `one_batch` gives one that is already on the device. Otherwise samples go through a DataLoader with a
    DistributedSampler, reshuffled each epoch from the trial's seed. Raises BadData where there is too little data for
    a step.
    """

    def __init__(self, task: Task, rank: int, seed: int, device: torch.device) -> None:
        setting = task.setting
        self.device = device
        self.accumulation = setting.accumulation
        data = task.dataset(train=True)
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            data, num_replicas=setting.workers, rank=rank, shuffle=True, seed=seed, drop_last=True
        )
        workers = setting.loader_workers
        self.loader: DataLoader[Any] = DataLoader(
            data,
            batch_size=setting.micro_batch,
            sampler=task.order(self.sampler, seed),
            collate_fn=task.collate(),
            num_workers=workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=setting.prefetch_factor if workers else None,
            persistent_workers=workers > 0,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )
        if self.steps_per_epoch == 0:
            raise BadData(
                f"{setting.dataset}: {task.num_samples(train=True)} {task.unit} are fewer than one global batch of "
                f"{setting.batch_size}"
            )
        self.on_device = task.one_batch
        self.memory_format = torch.channels_last if setting.channels_last else torch.preserve_format
        self.epochs_begun = 0
        self._held: Tree = None

    def __iter__(self) -> Iterator[Tree]:
        while True:
            yield from self.epoch()

    def epoch(self) -> Iterator[Tree]:
        """The next epoch's micro-batches; the first request sets the sampler's epoch and starts the loader.

        Callers use `steps_per_epoch` to leave out the samples that do not fill a step.
        """
        self.sampler.set_epoch(self.epochs_begun)
        self.epochs_begun += 1
        if not self.on_device:
            yield from self._loaded()
            return
        if self._held is None:
            self._held = next(self._loaded())
        yield from itertools.repeat(self._held, len(self.loader))

    def _loaded(self) -> Iterator[Tree]:
        for batch in self.loader:
            yield move(batch, self.device, self.memory_format)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that one epoch's samples fill."""
        return len(self.loader) // self.accumulation

    @property
    def samples_per_epoch(self) -> int:
        """Samples per epoch on this rank."""
        return len(self.loader) * (self.loader.batch_size or 1)
