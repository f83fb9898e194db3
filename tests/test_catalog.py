"""The names known without importing torch are those that the libraries know."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench import catalog
from raybench.training.torchvision_ops import declare_missing


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
    with pytest.raises(ValueError, match=r"\.py here|no module:function"):
        catalog.own_model_file(name)
    (tmp_path / "mine.py").write_text("")
    assert catalog.own_model_file("mine:f") == tmp_path / "mine.py"
