"""Each rank sees its own share of the data, the same in every leg."""

from __future__ import annotations

import pytest
import torch

from raybench import catalog
from raybench.setting import Setting
from raybench.training.data import Batches, load_train_data

CPU = torch.device("cpu")


@pytest.mark.parametrize("dataset", ["digits", "synthetic", "synthetic_loader"])
def test_the_catalog_says_what_a_dataset_is(dataset: str) -> None:
    facts = catalog.DATASETS[dataset]
    data = load_train_data(dataset, facts.image_size)
    assert len(data) == facts.train_samples  # type: ignore[arg-type]
    image, label = data[0]
    assert image.shape == (facts.channels, facts.image_size, facts.image_size)
    assert 0 <= int(label) < facts.classes


def share(rank: int, seed: int = 3, workers: int = 3, epochs: int = 1) -> list[torch.Tensor]:
    setting = Setting(model="lenet", dataset="digits", batch_size=12 * workers, workers=workers)
    batches = Batches(setting, rank, seed, CPU)
    stream = iter(batches)
    return [next(stream)[0] for _ in range(epochs * len(batches.loader))]


def digests(batches: list[torch.Tensor]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in batches for image in batch]


def test_ranks_share_an_epoch_without_overlap() -> None:
    shares = [digests(share(rank)) for rank in range(3)]
    assert [len(images) for images in shares] == [1437 // 3 // 12 * 12] * 3
    together = [image for images in shares for image in images]
    assert len(set(together)) >= 0.98 * len(together)  # a few digits are alike in the data itself


def test_the_order_is_the_seeds_and_another_each_epoch() -> None:
    assert digests(share(0)) == digests(share(0))
    assert digests(share(0)) != digests(share(0, seed=4))
    two = digests(share(0, epochs=2))
    assert two[: len(two) // 2] != two[len(two) // 2 :]


def test_synthetic_needs_no_loader() -> None:
    setting = Setting(model="lenet", dataset="synthetic", batch_size=4)
    stream = iter(Batches(setting, 0, 0, CPU))
    first, second = next(stream), next(stream)
    assert first[0] is second[0]


def test_data_that_is_not_there_says_what_to_do(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    load_train_data.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not in .*data: fetch it once with"):
        load_train_data("cifar10", 32)
