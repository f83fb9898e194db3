"""The datasets that a space may name, with their properties and files, known without importing torch.

A relative `data_root` starts at the folder in which the command was started, on every machine that trains.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from raybench.errors import BadData
from raybench.machine.variables import WORKING_TREE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision
_HALF, _QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset's properties, known before loading: sizes, counts, and pixel statistics for normalizing images."""

    image_size: int  # pixels a side, by default in training
    channels: int
    classes: int
    train_samples: int
    test_samples: int
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _QUARTER
    files: tuple[str, ...] = ()  # below data_root, in torchvision's layout


def _idx_files(folder: str) -> tuple[str, ...]:
    names = (f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    return tuple(f"{folder}/raw/{name}" for name in names)


_CIFAR10 = tuple(f"cifar-10-batches-py/{n}" for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))
_CIFAR100 = ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta")
_SVHN = ("train_32x32.mat", "test_32x32.mat")


def _grey(value: float) -> tuple[float, float, float]:
    return (value, value, value)


# Pixel statistics are the usual ones of each training set (ImageNet's for image folders).
DATASETS: dict[str, DatasetFacts] = {
    "digits": DatasetFacts(32, 3, 10, 1437, 360, _grey(0.3053), _grey(0.3236)),  # scikit-learn's 8x8 originals, resized
    "synthetic": DatasetFacts(32, 3, 10, 50_000, 10_000),  # one random batch on the device, without a loader
    "synthetic_loader": DatasetFacts(32, 3, 10, 50_000, 10_000),  # random images through the real loader
    "cifar10": DatasetFacts(
        32, 3, 10, 50_000, 10_000, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
        (*_CIFAR10, "cifar-10-batches-py/batches.meta"),
    ),
    "cifar100": DatasetFacts(
        32, 3, 100, 50_000, 10_000, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), _CIFAR100
    ),
    "svhn": DatasetFacts(32, 3, 10, 73_257, 26_032, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), _SVHN),
    "mnist": DatasetFacts(32, 3, 10, 60_000, 10_000, _grey(0.1307), _grey(0.3081), _idx_files("MNIST")),
    "fashion_mnist": DatasetFacts(
        32, 3, 10, 60_000, 10_000, _grey(0.2860), _grey(0.3530), _idx_files("FashionMNIST")
    ),
    "kmnist": DatasetFacts(32, 3, 10, 60_000, 10_000, _grey(0.1918), _grey(0.3483), _idx_files("KMNIST")),
    # Classes and samples depend on the folder: `facts_of` counts them.
    "imagefolder": DatasetFacts(224, 3, 0, 0, 0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}  # fmt: skip


def data_folder(data_root: str) -> Path:
    """`data_root` as an absolute path on this machine."""
    return Path(os.environ.get(WORKING_TREE, "")).absolute() / Path(data_root).expanduser()


def facts_of(dataset: str, data_root: str = "data") -> DatasetFacts:
    """A dataset's properties; an image folder is counted. Raises BadData where a folder is no image folder."""
    if dataset != "imagefolder":
        return DATASETS[dataset]
    return _count(data_folder(data_root))


def check_present(dataset: str, data_root: str) -> None:
    """Raise BadData where a dataset's files are missing on this machine, saying which files belong where."""
    root = data_folder(data_root)
    if dataset == "imagefolder":
        facts_of(dataset, data_root)
        return
    if missing := missing_files(dataset, data_root):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadData(
            f"{dataset} is not in {root}: missing {', '.join(missing[:3])}{more}; put the files there, fetch them with "
            "setting.download=true, or name another place with setting.data_root="
        )


def missing_files(dataset: str, data_root: str) -> list[str]:
    """A dataset's files that are missing on this machine; for an image folder, which of its two folders."""
    names = ("train", "val") if dataset == "imagefolder" else DATASETS[dataset].files
    return [name for name in names if not (data_folder(data_root) / name).exists()]


@cache
def _count(root: Path) -> DatasetFacts:
    classes, samples = {}, {}
    for part in ("train", "val"):
        folder = root / part
        if not folder.is_dir():
            raise BadData(
                f"imagefolder: {folder} is no folder; lay images out as {root}/train/CLASS/*.jpg and "
                f"{root}/val/CLASS/*.jpg, or name another place with setting.data_root="
            )
        classes[part] = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        counts = {name: _num_images(folder / name) for name in classes[part]}
        if not counts:
            raise BadData(f"imagefolder: {folder} holds no class folders; images go to {folder}/CLASS/*.jpg")
        for name, count in counts.items():
            if not count:
                raise BadData(f"imagefolder: no image in {folder / name}; put some there or take the folder away")
        samples[part] = sum(counts.values())
    apart = sorted(set(classes["train"]) ^ set(classes["val"]))
    if apart:
        only = "train" if apart[0] in classes["train"] else "val"
        raise BadData(
            f"imagefolder: class {apart[0]!r} is in {root / only} alone; train and val need the same class folders"
        )
    return replace(
        DATASETS["imagefolder"],
        classes=len(classes["train"]),
        train_samples=samples["train"],
        test_samples=samples["val"],
    )


def _num_images(folder: Path) -> int:
    """Images in a class folder and below it, by suffix, as torchvision finds them."""
    return sum(
        name.lower().endswith(IMAGE_SUFFIXES) for _, _, files in os.walk(folder, followlinks=True) for name in files
    )
