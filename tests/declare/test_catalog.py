"""The names known without importing torch are those that the libraries know."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.declare import catalog
from raybench.declare.space import check_model_name
from raybench.training.models.torchvision_ops import declare_missing


def test_names_are_those_of_the_libraries() -> None:
    declare_missing()
    import timm
    import torchvision

    assert set(catalog.timm_models()) == set(timm.list_models())
    classifiers = set(torchvision.models.list_models(module=torchvision.models))
    assert classifiers <= set(catalog.torchvision_models())


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("lenet", "lenet"), ("resnet18", "cnn"), ("densenet121", "cnn"), ("convnext_tiny", "cnn"), ("alexnet", "cnn"),
        ("vit_tiny_patch16_224", "vit"), ("timm/deit_small_patch16_224", "vit"), ("vit_b_16", "vit"),
        ("swin_tiny_patch4_window7_224", "vit"), ("coat_tiny", "hybrid"), ("mixer_b16_224", "mlp"), ("mine:net", "own"),
    ],
)  # fmt: skip
def test_families(model: str, family: str) -> None:
    assert catalog.family(model) == family


@pytest.mark.parametrize("name", ["os:system", "mine", "a b:c", "..x:f", "mine:f-g", "/etc/x:f"])
def test_own_models_come_from_the_working_tree_only(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"\.py here|nor module:function"):
        catalog.own_model_file(name)
    (tmp_path / "mine.py").write_text("")
    assert catalog.own_model_file("mine:f") == tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("model", "origin", "family"),
    [
        ("lenet5", ("raybench", "lenet"), "lenet"),
        ("cvt_13", ("transformers", "cvt"), "hybrid"),
        ("resnet18", ("timm", "resnet"), "cnn"),
        ("timm/resnet18", ("timm", "resnet"), "cnn"),
        ("torchvision/resnet18", ("torchvision", "resnet"), "cnn"),
        ("torchvision/swin_t", ("torchvision", "swin_transformer"), "vit"),
        ("swin_t", ("torchvision", "swin_transformer"), "vit"),
        ("mine.models:net", ("own", "mine.models"), "own"),
        ("timm/swin_t", ("unknown", ""), "cnn"),
        ("torchvision/lenet", ("unknown", ""), "cnn"),
    ],
)
def test_where_models_come_from(model: str, origin: tuple[str, str], family: str) -> None:
    assert catalog.origin(model) == origin
    assert catalog.family(model) == family


def test_names_of_the_wrong_library_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'timm/swin_t' of timm"):
        check_model_name("timm/swin_t")
    for name in ("torchvision/swin_t", "swin_t", "timm/resnet18", "lenet5", "cvt_21"):
        check_model_name(name)


def test_cvt_wants_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybench.declare.space.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'raybench\[run\]'"):
        check_model_name("cvt_13")


def test_a_file_of_ones_own_is_told_how_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mynet.py").write_text("")
    with pytest.raises(ValueError, match=r"name the function too: mynet:FUNCTION"):
        check_model_name("mynet")
    with pytest.raises(ValueError, match=r"without \.py, as in mynet:tiny"):
        check_model_name("mynet.py:tiny")
