"""Every dataset is read from files made here; what is wrong with files is found before a leg, in one line."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.declare import datasets
from raybench.declare.datasets import DATASETS, facts_of
from raybench.declare.setting import Setting
from raybench.errors import BadData
from raybench.training.models.torchvision_ops import import_datasets
from raybench.training.tasks.images import check_data, evaluation_data, fetch, num_samples, training_data
from tests.training import datafiles

SIDE = 32


def setting_of(dataset: str, root: Path, **fields: Any) -> Setting:
    given = {"model": "lenet", "batch_size": 12, "image_size": SIDE, "data_root": str(root), **fields}
    return Setting(dataset=dataset, **given)


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    datasets._count.cache_clear()


@pytest.mark.parametrize("dataset", ["digits", "synthetic", "synthetic_loader"])
def test_what_is_here_without_files_is_what_the_table_says(dataset: str, tmp_path: Path) -> None:
    facts, setting = DATASETS[dataset], setting_of(dataset, tmp_path)
    for data, count in ((training_data(setting), facts.train_samples), (evaluation_data(setting), facts.test_samples)):
        assert num_samples(data) == count
        image, label = data[0]
        assert image.shape == (facts.channels, SIDE, SIDE)
        assert 0 <= int(label) < facts.classes
    check_data(setting, test_too=True)


def test_the_digits_are_split_without_overlap(tmp_path: Path) -> None:
    setting = setting_of("digits", tmp_path)
    shown = [
        {image.numpy().tobytes() for image, _ in data} for data in (training_data(setting), evaluation_data(setting))
    ]
    assert len(shown[0] & shown[1]) <= 3  # a few digits are alike in the data itself


@pytest.mark.parametrize("dataset", datafiles.WRITERS)
def test_files_of_every_format_are_read_whole(dataset: str, tmp_path: Path) -> None:
    datafiles.WRITERS[dataset](tmp_path)
    setting = setting_of(dataset, tmp_path)
    check_data(setting, test_too=True)
    facts = facts_of(dataset, str(tmp_path))
    classes = {"imagefolder": 3, "cifar100": 100}.get(dataset, 10)
    assert facts.classes == classes
    for data in (training_data(setting), evaluation_data(setting)):
        image, label = data[num_samples(data) - 1]
        assert image.shape == (3, SIDE, SIDE)
        assert image.dtype == torch.float32
        assert int(label) == classes - 1
        level = float((image * torch.tensor(facts.std)[:, None, None]).mean() + torch.tensor(facts.mean).mean())
        grey = {"imagefolder": 6, "cifar100": 9}.get(dataset, 9) * 20 + 30
        assert 255 * level == pytest.approx(grey, abs=4)


def test_an_image_folder_says_what_it_holds(tmp_path: Path) -> None:
    datafiles.write_folder(tmp_path)
    facts = facts_of("imagefolder", str(tmp_path))
    assert (facts.classes, facts.train_samples, facts.test_samples, facts.image_size) == (3, 24, 9, 224)


def missing(root: Path) -> None:
    (root / "cifar-10-batches-py/test_batch").unlink()


def cut_short(root: Path) -> None:
    path = root / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(path.read_bytes()[:-500])


def no_pickle(root: Path) -> None:
    (root / "cifar-10-batches-py/data_batch_1").write_text("<html>404</html>")


def label_of_another(root: Path) -> None:
    path = root / "cifar-10-batches-py/data_batch_1"
    path.write_bytes(path.read_bytes().replace(b"K\x09", b"K\x0b", 1))


def few(root: Path) -> None:
    shutil.rmtree(root / "cifar-10-batches-py")
    datafiles.write_cifar(root, a_batch=2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (missing, r"cifar10 is not in {root}: missing cifar-10-batches-py/test_batch; .*setting.download=true"),
        (cut_short, r"the training files in {root} cannot be read \(.*damaged or not in torchvision's format"),
        (no_pickle, r"cifar10: the training files in {root} cannot be read"),
        (label_of_another, r"cifar10, training split: label 11 is out of range; 10 classes are numbered from 0"),
        (few, r"training split: 10 images are fewer than one global batch of 12"),
    ],
)
def test_wrong_files_are_told_in_one_line(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    datafiles.write_cifar(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadData, match=words.format(root=tmp_path)) as told:
        check_data(setting_of("cifar10", tmp_path), test_too=False)
    assert "\n" not in str(told.value)


def test_labels_and_images_must_be_as_many(tmp_path: Path) -> None:
    datafiles.write_mnist(tmp_path / "a", test=20)
    datafiles.write_mnist(tmp_path / "b", test=19)
    name = "MNIST/raw/t10k-labels-idx1-ubyte"
    shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    check_data(setting_of("mnist", tmp_path / "a"), test_too=False)
    with pytest.raises(BadData, match="test split: 20 images, but 19 labels"):
        check_data(setting_of("mnist", tmp_path / "a"), test_too=True)


def no_val(root: Path) -> None:
    shutil.rmtree(root / "val")


def another_class(root: Path) -> None:
    (root / "train/bee").rename(root / "train/dog")


def empty_class(root: Path) -> None:
    for file in (root / "train/bee").iterdir():
        file.unlink()


def no_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def no_image(root: Path) -> None:
    (root / "val/cat/0.jpg").write_text("no image")


def half_an_image(root: Path) -> None:
    path = root / "train/ant/2.jpg"
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_val, r"{root}/val is no folder; lay images out as {root}/train/CLASS/\*.jpg and {root}/val/CLASS/\*.jpg"),
        (another_class, r"class 'bee' is in {root}/val alone; train and val need the same class folders"),
        (empty_class, r"no image in {root}/train/bee"),
        (no_classes, r"{root}/train holds no class folders"),
        (no_image, r"{root}/val/cat/0.jpg cannot be read as an image"),
        (half_an_image, r"{root}/train/ant/2.jpg cannot be read as an image"),
    ],
)
def test_a_wrong_folder_is_told_in_one_line(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    datafiles.write_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadData, match=words.format(root=tmp_path)) as told:
        check_data(setting_of("imagefolder", tmp_path), test_too=True)
    assert "\n" not in str(told.value)


def test_a_relative_root_is_the_folder_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datafiles.write_mnist(tmp_path / "images")
    monkeypatch.setenv(datasets.WORKING_TREE, str(tmp_path))
    check_data(setting_of("mnist", Path("images")), test_too=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "synthetic", "augmentation": {"flip": True}}, "synthetic is one batch without a loader"),
        ({"dataset": "digits", "download": True}, "nothing to fetch for digits"),
        ({"dataset": "digits", "augmentation": {"crop": 4, "resized_crop": True}}, "two ways to crop"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Setting.model_validate({"model": "lenet", "batch_size": 4, **fields})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A web server of this machine with CIFAR-10's archive, made here, that torchvision takes for the real one."""
    folder = tmp_path / "site"
    datafiles.write_cifar(folder)
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kind = import_datasets().CIFAR10
        batches = folder / "cifar-10-batches-py"
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
        for name in ("train_list", "test_list"):
            monkeypatch.setattr(kind, name, [[file, md5(batches / file)] for file, _ in getattr(kind, name)])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(batches / "batches.meta")})
        yield archive
        server.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision's own call of tarfile
def test_data_are_fetched_on_request(site: Path, tmp_path: Path) -> None:
    setting = setting_of("cifar10", tmp_path / "data", download=True)
    with pytest.raises(BadData, match="cifar10 is not in"):
        check_data(setting, test_too=True)
    fetch(setting)
    check_data(setting, test_too=True)
    site.unlink()
    fetch(setting)  # what is there is not fetched again


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_fetched_must_have_the_right_checksum(site: Path, tmp_path: Path) -> None:
    site.write_bytes(site.read_bytes()[:-100])
    with pytest.raises(BadData, match=r"cifar10 could not be fetched \(.*\); put its files into .*data_batch_1"):
        fetch(setting_of("cifar10", tmp_path / "data", download=True))
