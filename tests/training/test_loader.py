"""Each rank sees its own share of the data: the same order and the same random changes in every leg of a trial."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raybench.declare.setting import Setting
from raybench.training.loader import Batches
from raybench.training.tasks import build_task
from tests.training import datafiles

CPU = torch.device("cpu")


def share(rank: int, seed: int = 3, workers: int = 3, epochs: int = 1) -> list[torch.Tensor]:
    setting = Setting(model="lenet", dataset="digits", batch_size=12 * workers, workers=workers)
    batches = Batches(build_task(setting), rank, seed, CPU)
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
    task = build_task(Setting(model="lenet", dataset="synthetic", batch_size=10_000, accumulation=2))
    batches = Batches(task, 0, 0, CPU)
    stream = iter(batches)
    assert len({id(next(stream)[0]) for _ in range(12)}) == 1
    assert batches.steps_per_epoch == 5
    assert len(list(batches.epoch())) == 10


EVERYTHING = {"crop": 4, "flip": True, "randaugment": True, "mixup": 0.2, "cutmix": 1.0}


def augmented(epochs: int = 1, seed: int = 3, noise: bool = False, **fields: Any) -> list[tuple[torch.Tensor, Any]]:
    """The first two batches of each epoch; with `noise`, torch's random numbers are drawn from in between."""
    given = {"model": "lenet", "dataset": "digits", "batch_size": 16, "augmentation": EVERYTHING, **fields}
    batches = Batches(build_task(Setting.model_validate(given)), 0, seed, CPU)
    found = []
    for _ in range(epochs):
        for _, batch in zip(range(2), batches.epoch(), strict=False):
            found.append(batch)
            if noise:
                torch.rand(1000)
    return found


def alike(one: list[tuple[torch.Tensor, Any]], other: list[tuple[torch.Tensor, Any]]) -> bool:
    return all(torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def test_random_changes_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    plain = augmented()
    state = torch.get_rng_state()
    assert alike(plain, augmented(noise=True))
    assert alike(plain, augmented(loader_workers=2))
    assert not alike(plain, augmented(seed=4))
    torch.set_rng_state(state)
    following = torch.rand(3)
    torch.set_rng_state(state)
    augmented()
    assert torch.equal(following, torch.rand(3))  # reading batches takes no random number from the model


def test_another_epoch_changes_the_same_images_otherwise() -> None:
    setting = Setting.model_validate(
        {"model": "lenet", "dataset": "digits", "batch_size": 16, "augmentation": {"crop": 4}}
    )
    batches = Batches(build_task(setting), 0, 3, CPU)
    seeds = []
    for epoch in range(2):
        batches.sampler.set_epoch(epoch)
        seeds.append(dict(batches.loader.sampler))
    assert seeds[0].keys() == seeds[1].keys()
    images = [
        {batches.loader.dataset[index, each[index]][0].numpy().tobytes() for index in range(50)} for each in seeds
    ]
    assert len(images[0] & images[1]) < 10


def test_mixed_labels_are_probabilities() -> None:
    for images, labels in augmented(augmentation={"mixup": 0.4}):
        assert images.shape == (16, 3, 32, 32)
        assert labels.shape == (16, 10)
        assert torch.allclose(labels.sum(1), torch.ones(16))
        assert (labels.max(1).values < 1).any()


@pytest.mark.parametrize("augmentation", [{"resized_crop": True, "flip": True}, {"randaugment": {"magnitude": 20}}])
def test_image_folders_are_augmented_too(augmentation: dict[str, Any], tmp_path: Any) -> None:
    datafiles.write_folder(tmp_path)
    where = {"dataset": "imagefolder", "data_root": str(tmp_path), "image_size": 32, "batch_size": 12}
    batches = augmented(augmentation=augmentation, **where)
    assert [images.shape for images, _ in batches] == [(12, 3, 32, 32)] * 2
    assert not alike(batches[:1], augmented(augmentation={}, **where)[:1])
