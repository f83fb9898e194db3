"""What fits a model to small images is decided when a space is read, once and for all."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raybench.declare.plan import build_plan
from raybench.declare.setting import Setting
from raybench.declare.small_images import in_words, made_for, patch_size
from raybench.declare.space import load_space
from tests.conftest import Commands


def setting(model: str, **fields: object) -> Setting:
    return Setting.model_validate({"model": model, "dataset": "cifar10", "batch_size": 8, **fields})


@pytest.mark.parametrize(
    ("model", "fields", "small_images", "image_size"),
    [
        ("resnet18", {}, "stem", 32),
        ("torchvision/resnet18", {"small_images": "auto"}, "stem", 32),
        ("resnet18", {"small_images": "none"}, "none", 32),
        ("resnet18", {"small_images": "resize"}, "resize", 224),
        ("resnet18", {"small_images": "resize", "image_size": 96}, "resize", 96),
        ("resnet18", {"image_size": 64}, "none", 64),
        ("resnet18", {"image_size": 64, "small_images": "stem"}, "stem", 64),
        ("vit_tiny_patch16_224", {}, "patch", 32),
        ("vit_tiny_patch16_224", {"image_size": 224}, "none", 224),
        ("cvt_13", {}, "patch", 32),
        ("swin_tiny_patch4_window7_224", {}, "resize", 224),
        ("swin_tiny_patch4_window7_224", {"image_size": 32}, "none", 32),
        ("crossvit_9_240", {}, "resize", 240),
        ("torchvision/vit_b_16", {}, "resize", 224),
        ("lenet", {}, "none", 32),
        ("vgg11_bn", {}, "none", 32),
        ("mine:net", {}, "none", 32),
    ],
)
def test_the_default_of_each_family(model: str, fields: dict[str, object], small_images: str, image_size: int) -> None:
    one = setting(model, **fields)
    assert (one.small_images, one.image_size) == (small_images, image_size)
    assert Setting.model_validate(one.model_dump()) == one
    assert Setting.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("vit_tiny_patch16_224", {"small_images": "stem"}, "stem is not possible for vit_tiny_patch16_224; .*patch"),
        ("vgg11", {"small_images": "stem"}, "write none"),
        ("resnet18", {"small_images": "patch"}, "patch is not possible for resnet18; write stem"),
        ("resnet18", {"small_images": "resize", "image_size": 32}, "32 pixels are not more than 32"),
        ("resnet18", {"small_images": "steam"}, "'auto', 'none', 'stem', 'patch' or 'resize'"),
    ],
)
def test_what_a_model_does_not_have_is_refused(model: str, fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        setting(model, **fields)


def test_where_nothing_is_done_the_ids_are_those_of_before() -> None:
    """As written for the quickstart before there was such a choice."""
    assert "small_images" not in setting("lenet").identity()
    assert "small_images" not in setting("resnet18", image_size=64).identity()
    assert setting("resnet18").identity()["small_images"] == "stem"


@pytest.mark.parametrize(("image_size", "patch"), [(28, 4), (32, 4), (48, 6), (56, 8), (8, 1), (31, 1)])
def test_patches_divide_the_image(image_size: int, patch: int) -> None:
    assert patch_size(image_size) == patch


def test_sizes_are_read_from_names() -> None:
    assert made_for("vit_base_patch16_384") == 384
    assert made_for("swin_tiny_patch4_window7_224") == 224
    assert made_for("resnetrs152") == made_for("regnety_032") == 224
    assert in_words("swin_tiny_patch4_window7_224", "resize", 224) == "images are enlarged to 224 x 224"


def test_arms_of_other_models_are_fitted_on_their_own() -> None:
    name, space = load_space("quickstart", {"setting.model": "resnet18", "setting.small_images": "auto"})
    other = space.arms["ddp"].model_copy(update={"setting": {"model": "vit_tiny_patch16_224"}})
    space = space.model_copy(update={"arms": {**space.arms, "vit": other}, "differs": ("model",)})
    legs = {leg.arm_name: leg for leg in build_plan(name, space).trials[0].legs}
    assert (legs["ddp"].setting.small_images, legs["vit"].setting.small_images) == ("stem", "patch")


def test_the_plan_prints_it(commands: Commands) -> None:
    done = commands.run("plan", "space=vits", "setting.image_size=null", "setting.batch_size=64")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "small_images patch: patches of 4 x 4 pixels (vit_tiny_patch16_224, vit_small" in text
    assert "small_images resize: images are enlarged to 224 x 224 (swin_tiny_patch4_window7_224)" in text
