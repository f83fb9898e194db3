"""Images and the order in which each rank sees them: the same seeded order in every arm of a trial."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from raybench import catalog
from raybench.setting import Setting

Batch = tuple[torch.Tensor, torch.Tensor]  # images (batch, channels, side, side) float32; labels (batch,) int64


@lru_cache(maxsize=2)
def load_train_data(dataset: str, image_size: int) -> Dataset[Batch]:
    """The training images of a dataset, in memory or read from ./data. Raises FileNotFoundError with what to do."""
    if dataset == "digits":
        return _digits(image_size)
    if dataset in ("synthetic", "synthetic_loader"):
        return _synthetic(image_size)
    return _torchvision(dataset, image_size)


def _digits(image_size: int) -> Dataset[Any]:
    """scikit-learn's 1,797 8x8 digits, resized; the first 1,437 (in a fixed shuffled order) train."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16.0).unsqueeze(1)
    images = interpolate(images, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = order[: catalog.DATASETS["digits"].train_samples]
    return TensorDataset(images[order].expand(-1, 3, -1, -1).contiguous(), labels[order])


class _Random(Dataset[Batch]):
    """As many samples as CIFAR-10 has, each a view of one of 256 random images."""

    def __init__(self, image_size: int) -> None:
        facts = catalog.DATASETS["synthetic"]
        generator = torch.Generator().manual_seed(0)
        self.length = facts.train_samples
        self.images = torch.randn(256, facts.channels, image_size, image_size, generator=generator)
        self.labels = torch.randint(facts.classes, (256,), generator=generator)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        return self.images[index % 256], self.labels[index % 256]


def _synthetic(image_size: int) -> Dataset[Batch]:
    return _Random(image_size)


def _torchvision(dataset: str, image_size: int) -> Dataset[Batch]:
    from raybench.training.torchvision_ops import declare_missing

    declare_missing()
    import torchvision
    from torchvision.transforms import v2

    facts = catalog.DATASETS[dataset]
    transforms: list[torch.nn.Module] = [v2.ToImage()]
    if facts.channels == 3 and dataset in ("mnist", "fashion_mnist"):
        transforms.append(v2.RGB())
    transforms += [v2.Resize((image_size, image_size)), v2.ToDtype(torch.float32, scale=True)]
    transforms.append(v2.Normalize([0.5] * 3, [0.25] * 3))
    name = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset]
    root = Path("data").absolute()
    try:
        data: Dataset[Batch] = getattr(torchvision.datasets, name)(root, transform=v2.Compose(transforms), train=True)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{dataset} is not in {root}: fetch it once with "
            f"`python -c \"import torchvision; torchvision.datasets.{name}('{root}', download=True)\"`, "
            "or use setting.dataset=synthetic"
        ) from error
    return data


class Batches:
    """An endless iterator over one rank's micro-batches on the device, epoch after epoch.

    `synthetic` gives one batch that already lies on the device; everything else goes through a DataLoader
    over a DistributedSampler, reshuffled each epoch from the trial's seed.
    """

    def __init__(self, setting: Setting, rank: int, seed: int, device: torch.device) -> None:
        assert setting.image_size is not None
        self.device = device
        self.pin_memory = device.type == "cuda"
        data = load_train_data(setting.dataset, setting.image_size)
        self.sampler: DistributedSampler[Batch] = DistributedSampler(
            data, num_replicas=setting.workers, rank=rank, shuffle=True, seed=seed, drop_last=True
        )
        self.loader = DataLoader(
            data,
            batch_size=setting.micro_batch,
            sampler=self.sampler,
            num_workers=setting.loader_workers,
            pin_memory=self.pin_memory,
            persistent_workers=setting.loader_workers > 0,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )
        if len(self.loader) == 0:
            raise ValueError(f"{setting.dataset}: fewer samples a rank than one micro-batch of {setting.micro_batch}")
        self.on_device = setting.dataset == "synthetic"
        self.memory_format = torch.channels_last if setting.channels_last else torch.preserve_format
        self.epochs_begun = 0

    def __iter__(self) -> Iterator[Batch]:
        if self.on_device:
            batch = next(self._epoch())
            while True:
                yield batch
        while True:
            yield from self._epoch()

    def _epoch(self) -> Iterator[Batch]:
        self.sampler.set_epoch(self.epochs_begun)
        self.epochs_begun += 1
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True, memory_format=self.memory_format)
            yield images, labels.to(self.device, non_blocking=True)

    @property
    def samples_per_epoch(self) -> int:
        """Images of one epoch that this rank sees."""
        return len(self.loader) * (self.loader.batch_size or 1)
