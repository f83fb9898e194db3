"""Small datasets written in the formats that torchvision reads: each class has a grey level of its own."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

RAW = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


def images(labels: np.ndarray, side: int, channels: int, seed: int = 0) -> np.ndarray:
    """(samples, side, side, channels) uint8: noise around 20 times the label."""
    noise = np.random.default_rng(seed).integers(-15, 16, (len(labels), side, side, channels))
    return np.clip(labels[:, None, None, None] * 20 + 30 + noise, 0, 255).astype(np.uint8)


def write_mnist(root: Path, name: str = "mnist", train: int = 60, test: int = 20) -> None:
    """MNIST's idx files, not packed."""
    folder = root / RAW[name] / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        pixels = images(labels, 28, 1, seed=count)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">II", 0x801, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())


def write_cifar(root: Path, classes: int = 10, a_batch: int = 20, test: int = 20) -> None:
    """CIFAR-10's or CIFAR-100's python pickles."""

    def batch(count: int, seed: int) -> dict:
        labels = np.arange(count) % classes
        pixels = images(labels % 10, 32, 3, seed).transpose(0, 3, 1, 2).reshape(count, 3072)
        return {"data": pixels, "labels" if classes == 10 else "fine_labels": labels.tolist()}

    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] if classes == 10 else ["train"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(pickle.dumps(batch(a_batch, number)))
    (folder / ("test_batch" if classes == 10 else "test")).write_bytes(pickle.dumps(batch(test, 9)))
    words = [f"class {i}" for i in range(classes)]
    meta = ("batches.meta", "label_names") if classes == 10 else ("meta", "fine_label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: words}))


def write_svhn(root: Path, train: int = 60, test: int = 20) -> None:
    """SVHN's MATLAB files, where the digit 0 is class 10."""
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 10
        pixels = images(labels, 32, 3).transpose(1, 2, 3, 0)
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": np.where(labels == 0, 10, labels)[:, None]})


def write_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), train: int = 8, test: int = 3) -> None:
    """ImageNet's layout, with images of different sizes."""
    for part, count in (("train", train), ("val", test)):
        for number, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index, pixels in enumerate(images(np.full(count, 3 * number), 48, 3, seed=number)):
                image = Image.fromarray(pixels).resize((40 + 4 * index, 48))
                image.save(root / part / name / f"{index}.{'png' if index % 2 else 'jpg'}")


WRITERS = {
    "mnist": write_mnist,
    "fashion_mnist": lambda root: write_mnist(root, "fashion_mnist"),
    "kmnist": lambda root: write_mnist(root, "kmnist"),
    "cifar10": write_cifar,
    "cifar100": lambda root: write_cifar(root, classes=100, a_batch=200, test=100),
    "svhn": write_svhn,
    "imagefolder": write_folder,
}
