"""Models build and answer with logits; each rank sees its own share of the data, the same in every leg."""

from __future__ import annotations

import pytest
import torch

from raybench import catalog
from raybench.setting import Setting
from raybench.training.data import Batches, load_train_data
from raybench.training.models import build_model, forward_flops, work_facts

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("lenet", 32), ("lenet", 28), ("resnet10t", 32), ("timm/resnet18", 64), ("vit_tiny_patch16_224", 32),
        ("vit_tiny_patch16_224", 224), ("swin_tiny_patch4_window7_224", 224), ("shufflenet_v2_x0_5", 64),
    ],
)  # fmt: skip
def test_models_by_name(model: str, size: int) -> None:
    setting = Setting(model=model, dataset="cifar100", image_size=size, batch_size=2)
    network, _ = build_model(setting)
    assert network.eval()(torch.randn(2, 3, size, size)).shape == (2, 100)


def test_flops_are_those_of_the_layers() -> None:
    first, second = 2 * 6 * 3 * 25 * 28 * 28, 2 * 16 * 6 * 25 * 10 * 10  # a multiplication and an addition each
    linear = 2 * (400 * 120 + 120 * 84 + 84 * 10)
    assert forward_flops("lenet", "digits", 32, "{}") == first + second + linear
    resnet18 = forward_flops("resnet18", "cifar10", 224, "{}")
    assert resnet18 == pytest.approx(2 * 1.82e9, rel=0.01)  # He et al. 2016: 1.8e9 multiply-adds
    facts = work_facts(Setting(model="lenet", dataset="digits", batch_size=4), num_parameters=62006)
    assert facts["flops_per_byte"] == pytest.approx(3 * (first + second + linear) / (4 * 62006))


def test_the_same_seed_builds_the_same_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network, _ = build_model(Setting(model="lenet", dataset="digits", batch_size=2))
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


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
