"""Models: names drawn at random build and train, sizes and FLOPs are those of the papers, what small images do."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from raybench.declare import catalog
from raybench.declare.setting import Setting
from raybench.declare.small_images import PATCHED, STEMS
from raybench.errors import InvalidConfig
from raybench.training.models import named
from raybench.training.models.named import build_model, inspect_model, work_facts
from tests.training.datafiles import write_folder


def setting(model: str, size: int | None = None, dataset: str = "cifar100", **fields: object) -> Setting:
    return Setting.model_validate({"model": model, "dataset": dataset, "image_size": size, "batch_size": 2, **fields})


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("lenet", 32), ("lenet", 28), ("lenet5", 28), ("resnet10t", 32), ("timm/resnet18", 64), ("alexnet", 28),
        ("vit_tiny_patch16_224", 28), ("vit_tiny_patch16_224", 224), ("deit3_small_patch16_224", 224),
        ("swin_tiny_patch4_window7_224", 224), ("shufflenet_v2_x0_5", 64), ("torchvision/vit_b_16", 64),
        ("torchvision/inception_v3", 96), ("cvt_13", 32),
        ("regnet_y_400mf", 32),
    ],
)  # fmt: skip
def test_models_by_name(model: str, size: int) -> None:
    network, _ = build_model(setting(model, size))
    assert network.train()(torch.randn(2, 3, size, size)).shape == (2, 100)


def test_an_image_folder_says_how_many_classes_there_are(tmp_path: Path) -> None:
    write_folder(tmp_path)
    network, _ = build_model(setting("test_resnet", 32, dataset="imagefolder", data_root=str(tmp_path)))
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_flops_are_those_of_the_layers() -> None:
    first, second = 2 * 6 * 3 * 25 * 28 * 28, 2 * 16 * 6 * 25 * 10 * 10  # a multiplication and an addition each
    linear = 2 * (400 * 120 + 120 * 84 + 84 * 10)
    facts = work_facts(setting("lenet", dataset="digits"), num_parameters=62006)
    assert facts["flops_per_image"] == first + second + linear
    assert facts["flops_per_byte"] == pytest.approx(3 * (first + second + linear) / (4 * 62006))


def test_what_a_model_is_found_to_be_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named._inspected.cache_clear()
    one = setting("lenet", dataset="digits")
    found = inspect_model(one)
    assert found.flops
    [file] = (tmp_path / "raybench").glob("model-*.json")
    file.write_text(json.dumps({"sized": False, "flops": 7, "problem": "kept"}))  # another process finds it there
    named._inspected.cache_clear()
    assert inspect_model(one).problem == "kept"
    assert inspect_model(one.model_copy(update={"image_size": 28})).problem == ""  # another question
    file.write_text("{")
    named._inspected.cache_clear()
    assert inspect_model(one) == found
    named._inspected.cache_clear()


@pytest.mark.parametrize(
    ("model", "size", "multiply_adds", "parameters"),
    [
        ("resnet18", 224, 1.82e9, 11.69e6),  # He et al. 2016, table 1
        ("resnet18", 32, 0.56e9, 11.69e6),  # with the stem for CIFAR
        ("cvt_13", 224, 4.5e9, 19.98e6),  # Wu et al. 2021, table 3
        ("swin_tiny_patch4_window7_224", 224, 4.5e9, 28.3e6),  # Liu et al. 2021, table 1
    ],
)
def test_sizes_are_those_of_the_papers(model: str, size: int, multiply_adds: float, parameters: float) -> None:
    one = setting(model, size, dataset="cifar10", model_options={} if model == "cvt_13" else {"num_classes": 10})
    assert inspect_model(one).flops == pytest.approx(2 * multiply_adds, rel=0.03)
    with torch.device("meta"):
        network, _ = build_model(one)
    width = next(m.in_features for m in reversed(list(network.modules())) if isinstance(m, nn.Linear))
    thousand_classes = sum(p.numel() for p in network.parameters()) + 990 * (width + 1)
    assert thousand_classes == pytest.approx(parameters, rel=0.01)


def test_flops_of_a_vit_count_its_attention() -> None:
    """Blocks of width 192 on 8 x 8 patches and a class token: four 192 x 192 matrices, an MLP of eight, attention."""
    tokens, width, depth = 65, 192, 12
    blocks = depth * (12 * width**2 * tokens + 2 * tokens**2 * width)
    patches = 64 * 3 * 16 * width
    assert inspect_model(setting("vit_tiny_patch16_224", 32)).flops == 2 * (blocks + patches + width * 100)


def test_the_same_seed_builds_the_same_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network, _ = build_model(setting("test_resnet", dataset="digits", model_options={"drop_rate": seed / 10}))
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    first = weights(1)  # the model is inspected here, and not again
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@pytest.mark.parametrize(
    ("model", "size", "options", "words"),
    [
        ("inception_v3", 32, {}, "inception_v3 at 32x32: .*Kernel size can't be greater"),
        ("mobilenetv5_300m_enc", None, {}, "it is no classifier"),
        ("resnet18", 32, {"depth_of": 3}, "unexpected keyword argument 'depth_of'"),
        ("vit_tiny_patch16_224", 30, {"patch_size": 64}, "vit_tiny_patch16_224 at 30x30"),
        ("lenet", 12, {}, "16 pixels a side or more"),
    ],
)
def test_what_cannot_be_built_is_an_invalid_configuration_in_one_line(
    model: str, size: int | None, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidConfig, match=words) as caught:
        build_model(setting(model, size, model_options=options))
    assert "\n" not in str(caught.value)


def test_a_model_whose_batch_is_still_sought_is_tried_with_two_images() -> None:
    one = setting("test_resnet", 32, dataset="digits", batch_size="max", memory_limit="1GiB")
    assert inspect_model(one).problem == ""


def test_cvt_without_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybench.training.models.cvt.find_spec", lambda name: None)
    with pytest.raises(InvalidConfig, match=r"^cvt_21 comes from transformers.*pip install 'raybench\[run\]'$"):
        build_model(setting("cvt_21", 64))


def plainest(origin: str) -> str:
    """The model of an origin with the shortest name."""
    library, source = origin.split(".")
    if library == "transformers":
        return "cvt_13"
    found = catalog.timm_models() if library == "timm" else catalog.torchvision_models()
    name = min((name for name, module in found.items() if module == source), key=lambda name: (len(name), name))
    return f"{library}/{name}"


@pytest.mark.parametrize("origin", [*STEMS, *sorted(PATCHED)])
def test_what_is_done_by_default_can_be_done(origin: str) -> None:
    one = setting(plainest(origin), 32)
    assert one.small_images == ("stem" if origin in STEMS else "patch")
    assert inspect_model(one).flops, inspect_model(one).problem


@pytest.mark.parametrize("model", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
def test_what_small_images_keep_is_computed(model: str) -> None:
    """A model that does not throw a small image away in its first layers has several times as much to do."""
    flops = inspect_model(setting(model, 32)).flops
    assert flops is not None
    assert flops > 2 * (inspect_model(setting(model, 32, small_images="none")).flops or 0)


def test_the_stem_that_was_opened_is_told() -> None:
    with torch.device("meta"):
        assert build_model(setting("timm/resnet18", 32))[1]["stem"] == (
            "conv1: 7x7 stride 2 to 3x3 stride 1; maxpool left out"
        )


LARGEST = 3e9  # FLOPs of an image up to which a model is computed here; larger ones are tried on shapes alone


@pytest.mark.slow
def test_names_drawn_at_random_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # nothing may be downloaded
    draw = random.Random(2026)
    names = [f"timm/{name}" for name in draw.sample(sorted(catalog.timm_models()), 30)[:18]]
    names += [f"torchvision/{name}" for name in draw.sample(sorted(catalog.torchvision_models()), 10)[:6]]
    problems, computed = {}, 0
    for name in names:
        one = setting(name, dataset="digits")
        found = inspect_model(one)
        problems |= {name: found.problem} if found.problem else {}
        if found.problem or found.flops is None or found.flops > LARGEST:
            continue
        network, _ = build_model(one)
        assert one.image_size is not None
        logits = network.train()(torch.randn(2, 3, one.image_size, one.image_size))
        cross_entropy(logits, torch.tensor([0, 1])).backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters()), name
        computed += 1
    assert problems == {}
    assert computed >= 8
