"""Images and labels as torch datasets: training and test split, checked before any leg uses them.

torchvision reads the files. Files in its format are accepted whatever their checksums, so that part of a dataset or a
home-made one works; checksums are verified for what torchvision downloads itself.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, TensorDataset

from raybench.declare.datasets import DATASETS, DatasetFacts, check_present, data_folder, facts_of
from raybench.declare.setting import Augmentation, Setting
from raybench.errors import BadData
from raybench.training.models.torchvision_ops import import_datasets
from raybench.training.tasks.transforms import Augmented, build_transform

Sample = tuple[torch.Tensor, torch.Tensor]  # image (channels, side, side) float32; label () int64

_CLASSES = {
    "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN",
    "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST",
}  # fmt: skip
_DECODED = 2000  # images of a folder that are decoded fully in a check; of the others only the headers are read


def training_data(setting: Setting) -> Dataset[Any]:
    """The training images of a setting; with augmentation a dataset that takes (index, seed). Raises BadData."""
    assert setting.image_size is not None
    if setting.augmentation == Augmentation():
        return _images(setting.dataset, setting.data_root, setting.image_size, train=True)
    return _augmented(setting.dataset, setting.data_root, setting.image_size, setting.augmentation)


def evaluation_data(setting: Setting) -> Dataset[Sample]:
    """The test images of a setting, never augmented: a fifth of digits, image folders' val. Raises BadData."""
    assert setting.image_size is not None
    return _images(setting.dataset, setting.data_root, setting.image_size, train=False)


def num_samples(data: Dataset[Any]) -> int:
    """How many samples a dataset has."""
    return len(data)  # type: ignore[arg-type]


def fetch(setting: Setting) -> None:
    """Have torchvision download missing files, one process at a time. Raises BadData where it cannot."""
    name, root = setting.dataset, data_folder(setting.data_root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if all((root / file).is_file() for file in DATASETS[name].files):
                return
            for train in (True, False):
                getattr(import_datasets(), _CLASSES[name])(root, **_split(name, train), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadData(
            f"{name} could not be fetched ({reason}); put its files into {root} yourself: "
            f"{', '.join(DATASETS[name].files)}"
        ) from error


def data_digest(setting: Setting) -> str:
    """16 hexadecimal digits that identify the training data: all labels in order, and the files' sizes."""
    digest = _labels_digest(training_data(setting)).copy()
    root = data_folder(setting.data_root)
    for name in DATASETS[setting.dataset].files:
        digest.update(f"{name} {(root / name).stat().st_size}".encode())
    return str(digest.hexdigest()[:16])


@lru_cache(maxsize=2)
def _labels_digest(data: Dataset[Any]) -> Any:
    """The SHA-256 of all labels; every leg asks for it, and an ImageNet has a million."""
    return hashlib.sha256(_labels(data).to(torch.int64).numpy().tobytes())


def check_data(setting: Setting, *, test_too: bool, rank: int = 0, world: int = 1) -> None:
    """Raise BadData unless the training split (and the test split) can be read, has labels of the dataset's classes
    and enough samples for a batch.

    For image folders, checks every `world`-th image, starting with the `rank`-th.
    """
    for train in (True, False) if test_too else (True,):
        where = f"{setting.dataset}, {'training' if train else 'test'} split"
        data = training_data(setting) if train else evaluation_data(setting)
        size, labels = num_samples(data), _labels(data)
        if len(labels) != size:
            raise BadData(f"{where}: {size} images, but {len(labels)} labels; the files do not belong together")
        smallest = setting.workers if setting.batch_size == "max" else setting.global_batch
        needed = smallest if train else 1
        if size < needed:
            raise BadData(f"{where}: {size} images are fewer than one global batch of {needed}")
        classes = facts_of(setting.dataset, setting.data_root).classes
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise BadData(f"{where}: label {int(wrong[0])} is out of range; {classes} classes are numbered from 0")
        if setting.dataset == "imagefolder":
            _check_images(data, rank, world)


def _labels(data: Dataset[Any]) -> torch.Tensor:
    """All labels of a dataset, (samples,), without reading an image."""
    while isinstance(data, (Augmented, _Pixels)):
        data = data.images
    if isinstance(data, TensorDataset):
        return data.tensors[1]
    labels = data.labels if hasattr(data, "labels") else data.targets  # type: ignore[attr-defined]
    return torch.as_tensor(labels)


def _check_images(data: Any, rank: int, world: int) -> None:
    folder: Any = data.images if isinstance(data, Augmented) else data
    step = max(1, len(folder.samples) // _DECODED)
    for number, (path, _) in enumerate(folder.samples[rank::world]):
        _read_image(path, whole=number % step == 0)


def _read_image(path: str, whole: bool = True) -> Any:
    """An image as RGB, or only its header. Raises BadData for no image, a truncated one, or one too large for PIL."""
    from PIL import Image

    name = os.fsencode(path).decode("utf-8", "backslashreplace")  # a file name may be any bytes; the ledger needs text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of PIL's limit on
            with Image.open(path) as image:
                return _as_rgb(image, name) if whole else None
    except Image.DecompressionBombError as error:
        raise BadData(f"imagefolder: {name} is larger than PIL takes ({error}); make it smaller") from error
    except (OSError, ValueError, SyntaxError) as error:  # PIL's errors for a damaged file
        if isinstance(error, BadData):
            raise
        told = str(error).replace(path, name)
        raise BadData(f"imagefolder: {name} cannot be read as an image ({told}); mend it or take it away") from error


def _as_rgb(image: Any, name: str) -> Any:
    """8 bits a channel: the higher 8 of 16 bits; floats scaled from 0 to 1 (or 255). Raises BadData for others.

    PIL's own conversion would clip all values above 255 to white.
    """
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    most = 65535.0 if image.mode.startswith("I") else 1.0 if high <= 1 else 255.0
    if not 0 <= low <= high <= most:  # also false for nan
        raise BadData(
            f"imagefolder: {name} has values from {low:g} to {high:g} in mode {image.mode}; scale them to 0 to "
            f"{'65535' if most > 255 else '1'}, or save it with 8 bits a channel"
        )
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8)).convert("RGB")


def forget() -> None:
    """Drop the images kept in memory."""
    _labels_digest.cache_clear()
    _augmented.cache_clear()
    _images.cache_clear()


@lru_cache(maxsize=4)
def _images(dataset: str, data_root: str, image_size: int, *, train: bool) -> Dataset[Any]:
    if dataset == "digits":
        images, labels = _digits(image_size, train=train)
        return TensorDataset(images, labels)
    if dataset in ("synthetic", "synthetic_loader"):
        return _Random(dataset, image_size, train=train)
    facts = facts_of(dataset, data_root)
    return _read(dataset, data_root, train, build_transform(dataset, facts, image_size))


@lru_cache(maxsize=2)
def _augmented(dataset: str, data_root: str, image_size: int, augmentation: Augmentation) -> Augmented:
    facts = facts_of(dataset, data_root)
    transform = build_transform(dataset, facts, image_size, augmentation)
    if DATASETS[dataset].files or dataset == "imagefolder":
        return Augmented(_read(dataset, data_root, True, None), transform)
    images = _images(dataset, data_root, image_size, train=True)
    return Augmented(_Pixels(images, facts), transform)


class _Pixels(Dataset[Sample]):
    """Images in memory as uint8, the type that random transforms expect."""

    def __init__(self, images: Dataset[Sample], facts: DatasetFacts) -> None:
        self.images, self.mean, self.std = images, facts.mean[0], facts.std[0]

    def __len__(self) -> int:
        return num_samples(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.images[index]
        pixels = image.mul(self.std).add(self.mean).mul(255).round().clamp(0, 255)
        return pixels.to(torch.uint8), label


def _digits_file() -> np.ndarray:
    """scikit-learn's digits, (1797, 65): 64 values from 0 to 16, and the label.

    Read without importing scikit-learn, which imports SciPy and pandas (a second in each process).
    """
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")


def _digits(image_size: int, *, train: bool) -> Sample:
    """scikit-learn's 1,797 8x8 digits, resized; in a fixed shuffled order the first 1,437 are for training."""
    values = torch.from_numpy(_digits_file()).float()
    images = values[:, :-1].view(-1, 1, 8, 8).div(16.0)
    images = interpolate(images, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = (images - images.mean()) / images.std()
    labels = values[:, -1].long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    count = DATASETS["digits"].train_samples
    order = order[:count] if train else order[count:]
    return images[order].expand(-1, 3, -1, -1).contiguous(), labels[order]


class _Random(Dataset[Sample]):
    """As many samples as CIFAR-10 has, each a view of one of 256 random images."""

    def __init__(self, dataset: str, image_size: int, *, train: bool) -> None:
        facts = DATASETS[dataset]
        generator = torch.Generator().manual_seed(0)
        self.length = facts.train_samples if train else facts.test_samples
        self.images = torch.randn(256, facts.channels, image_size, image_size, generator=generator)
        self.few_labels = torch.randint(facts.classes, (256,), generator=generator)

    def __len__(self) -> int:
        return self.length

    @property
    def labels(self) -> torch.Tensor:
        """The labels of all samples, (samples,)."""
        return self.few_labels.repeat(-(-self.length // 256))[: self.length]

    def __getitem__(self, index: int) -> Sample:
        return self.images[index % 256], self.few_labels[index % 256]


def _split(dataset: str, train: bool) -> dict[str, Any]:
    """The arguments that select a split in the dataset's torchvision class."""
    return {"split": "train" if train else "test"} if dataset == "svhn" else {"train": train}


def _read(dataset: str, data_root: str, train: bool, transform: Any) -> Dataset[Sample]:
    """A split read from its files through torchvision. Raises BadData for missing or damaged files."""
    check_present(dataset, data_root)
    root = data_folder(data_root)
    try:
        return _from_files(dataset, root, train, transform)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        split = "training" if train else "test"
        raise BadData(
            f"{dataset}: the {split} files in {root} cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); they are damaged or not in torchvision's format"
        ) from error


def _from_files(dataset: str, root: Path, train: bool, transform: Any) -> Dataset[Sample]:
    library = import_datasets()
    if dataset == "imagefolder":
        folder = root / ("train" if train else "val")
        images: Dataset[Sample] = library.ImageFolder(folder, transform=transform, loader=_read_image)
        return images
    kind = getattr(library, _CLASSES[dataset])
    unchecked: dict[str, Any] = {}
    if hasattr(kind, "train_list"):  # CIFAR
        unchecked = {name: [[file, None] for file, _ in getattr(kind, name)] for name in ("train_list", "test_list")}
        unchecked["meta"] = {**kind.meta, "md5": None}
    elif hasattr(kind, "split_list"):  # SVHN
        unchecked["split_list"] = {part: [url, file, None] for part, (url, file, _) in kind.split_list.items()}
    lenient: Any = type(kind.__name__, (kind,), unchecked)
    found: Dataset[Sample] = lenient(root, transform=transform, **_split(dataset, train))
    return found
