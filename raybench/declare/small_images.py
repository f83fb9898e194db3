"""Fitting a model to images smaller than it was made for; decided when a space is read, not in a worker.

Networks made for 224 pixels discard most of a 32-pixel image in their first layers. Three remedies are common in the
literature: `stem` keeps the resolution there (the first convolution reads every pixel, the pooling behind it is left
out, as in He et al. 2016 for CIFAR); `patch` cuts a vision transformer's images into patches small enough for 7 x 7 of
them or more; `resize` enlarges the images to the size that the model was made for. No torch here.
"""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

from raybench.declare import catalog

SmallImages = Literal["auto", "none", "stem", "patch", "resize"]
SMALL_IMAGES: Final = get_args(SmallImages)

SMALL: Final = 64  # pixels a side; images of this size or more are left alone unless asked
_USUAL_SIZE: Final = 224  # for models whose name does not tell
_SIZE_IN_NAME: Final = re.compile(r"_(192|224|240|256|288|320|336|384|448|512)(?=_|$)")

# Models by library and source module whose stem can be opened, with the place of the pooling that is removed.
STEMS: Final[dict[str, str]] = {
    "timm.resnet": "maxpool",
    "timm.res2net": "maxpool",
    "timm.resnest": "maxpool",
    "timm.sknet": "maxpool",
    "timm.senet": "layer0.pool",
    "timm.densenet": "features.pool0",
    "timm.resnetv2": "stem.pool",
    "timm.dpn": "features.conv1_pool",
    "timm.vovnet": "",
    "timm.efficientnet": "",
    "timm.mobilenetv3": "",
    "timm.ghostnet": "",
    "timm.regnet": "",
    "timm.rexnet": "",
    "timm.convnext": "",
    "torchvision.resnet": "maxpool",
    "torchvision.densenet": "features.pool0",
    "torchvision.shufflenetv2": "maxpool",
    "torchvision.alexnet": "features.2",
    "torchvision.squeezenet": "features.2",
    "torchvision.googlenet": "maxpool1",
    "torchvision.mobilenetv2": "",
    "torchvision.mobilenetv3": "",
    "torchvision.efficientnet": "",
    "torchvision.mnasnet": "",
    "torchvision.regnet": "",
    "torchvision.convnext": "",
}
# Models that take a patch size, and keep the resolution after it.
PATCHED: Final = {
    "timm.vision_transformer", "timm.deit", "timm.beit", "timm.cait", "timm.eva", "timm.vision_transformer_relpos",
    "transformers.cvt",
}  # fmt: skip
# Models whose first layer keeps the resolution.
_AS_THEY_ARE: Final = {"raybench.lenet", "timm.vgg", "torchvision.vgg"}


def default_for(model: str) -> SmallImages:
    """The default remedy where a model gets small images; `resize` where none is better."""
    library, source = catalog.origin(model)
    origin = f"{library}.{source}"
    if library in ("own", "unknown") or origin in _AS_THEY_ARE:
        return "none"
    return "stem" if origin in STEMS else "patch" if origin in PATCHED else "resize"


def made_for(model: str) -> int:
    """Pixels a side that a model was made for, from its name; by default 224."""
    found = _SIZE_IN_NAME.findall(model)
    return int(found[-1]) if found else _USUAL_SIZE


def resolve(model: str, native: int, image_size: int | None, asked: SmallImages) -> tuple[SmallImages, int]:
    """The remedy, no longer `auto`, and the size of images in training; sizes in pixels a side.

    `native` is the dataset's size, `image_size` the setting's. `auto` does not enlarge a small `image_size`, because
    the user chose it. Raises ValueError where the model has no such remedy.
    """
    size = image_size or native
    if asked == "auto":
        asked = default_for(model) if size < SMALL else "none"
        if asked == "resize" and image_size is not None:
            asked = "none"
    elif (
        asked in ("stem", "patch") and asked != (usual := default_for(model)) and catalog.origin(model)[0] != "unknown"
    ):
        instead = f"write {usual} or none" if usual != "none" else "write none"
        raise ValueError(f"small_images: {asked} is not possible for {model}; {instead}")
    if asked == "resize":
        size = image_size or made_for(model)
        if size <= native:
            raise ValueError(f"small_images: resize enlarges images, and {size} pixels are not more than {native}")
    return asked, size


def in_words(model: str, small_images: SmallImages, image_size: int) -> str:
    """The remedy for a model's images, as a plan prints it; empty where there is none."""
    if small_images == "stem":
        library, source = catalog.origin(model)
        pool = STEMS.get(f"{library}.{source}")
        return "the first convolution takes every pixel" + (", the pooling behind it is left out" if pool else "")
    if small_images == "patch":
        return f"patches of {patch_size(image_size)} x {patch_size(image_size)} pixels"
    return f"images are enlarged to {image_size} x {image_size}" if small_images == "resize" else ""


def patch_size(image_size: int) -> int:
    """Pixels a side of the largest patches that divide an image into 7 x 7 or more: 4 for 28 and for 32 pixels."""
    return max(size for size in range(1, max(2, image_size // 7 + 1)) if image_size % size == 0)
