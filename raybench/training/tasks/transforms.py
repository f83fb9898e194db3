"""From a dataset's image to a network's input tensor, including random transforms for training.

Each sample, epoch and trial has its own seed for random transforms. So the result does not depend on the number of
loader workers, on the rank, or on what a model drew from torch's random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler, Sampler, default_collate

from raybench.declare.datasets import DatasetFacts
from raybench.declare.setting import Augmentation
from raybench.training.models.torchvision_ops import import_v2

Key = tuple[int, int]  # index of a sample, and the seed of its random transforms
Drawn = tuple[torch.Tensor, int, int]  # image, label, seed


def build_transform(
    dataset: str, facts: DatasetFacts, image_size: int, augmentation: Augmentation | None = None
) -> Callable[[Any], torch.Tensor]:
    """A function from a PIL image or a uint8 tensor to a normalized float32 tensor (channels, side, side).

    Image folders hold images of any size: the shorter side is resized to 256/224 of `image_size`, then the centre is
    cropped. Other datasets' images are resized whole.
    """
    v2 = import_v2()
    steps: list[torch.nn.Module] = [v2.ToImage(), v2.RGB()]
    if augmentation is not None and augmentation.resized_crop:
        steps.append(v2.RandomResizedCrop(image_size))
    elif dataset == "imagefolder":
        steps += [v2.Resize(round(image_size * 256 / 224)), v2.CenterCrop(image_size)]
    else:
        steps.append(v2.Resize((image_size, image_size)))
    if augmentation is not None:
        if augmentation.crop:
            steps.append(v2.RandomCrop(image_size, padding=augmentation.crop))
        if augmentation.flip:
            steps.append(v2.RandomHorizontalFlip())
        if augmentation.randaugment:
            steps.append(v2.RandAugment(augmentation.randaugment.num_ops, augmentation.randaugment.magnitude))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(facts.mean), list(facts.std))]
    transform: Callable[[Any], torch.Tensor] = v2.Compose(steps)
    return transform


class Augmented(Dataset[Drawn]):
    """A dataset whose images are transformed at random, each with the seed that comes with its index."""

    def __init__(self, images: Dataset[Any], transform: Callable[[Any], torch.Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> Drawn:
        index, seed = key
        image, label = self.images[index]
        with seeded(seed):
            return self.transform(image), int(label), seed


class SeededOrder(Sampler[Key]):
    """A DistributedSampler's order, each index with a seed drawn from the trial's seed and the epoch."""

    def __init__(self, sampler: DistributedSampler[Any], num_samples: int, seed: int) -> None:
        self.sampler, self.num_samples, self.seed = sampler, num_samples, seed

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Key]:
        generator = torch.Generator().manual_seed(self.seed + self.sampler.epoch)
        seeds = torch.randint(2**31, (self.num_samples,), generator=generator)
        return ((index, int(seeds[index])) for index in self.sampler)


class Mixing:
    """Collates samples into a batch and mixes it: labels (batch,) become probabilities (batch, classes)."""

    def __init__(self, augmentation: Augmentation, classes: int) -> None:
        v2 = import_v2()
        mixers = []
        if augmentation.mixup:
            mixers.append(v2.MixUp(alpha=augmentation.mixup, num_classes=classes))
        if augmentation.cutmix:
            mixers.append(v2.CutMix(alpha=augmentation.cutmix, num_classes=classes))
        self.mix = v2.RandomChoice(mixers) if mixers else None

    def __call__(self, samples: list[Drawn]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels, seeds = default_collate(samples)
        if self.mix is None:
            return images, labels
        with seeded(int(seeds[0])):
            mixed: tuple[torch.Tensor, torch.Tensor] = self.mix(images, labels)
            return mixed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU random numbers inside; restore their state afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
