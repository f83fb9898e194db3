"""The CIFAR stem: makes a network for large images keep a small image's resolution in its first layers.

The first convolution reads every pixel (stride 1; kernels above 3x3 become 3x3), and the pooling behind it becomes the
identity, as in the CIFAR-10 ResNets of He et al. 2016, section 4.2.
"""

from __future__ import annotations

from torch import nn

from raybench.declare.catalog import origin
from raybench.declare.small_images import STEMS


def open_stem(model: nn.Module, name: str, channels: int) -> str:
    """Change the stem of model `name` in place. Returns what was done, in words.

    Raises ValueError where the model does not read its images with a strided convolution.
    """
    place, convolution = _first_convolution(model, channels)
    if max(convolution.stride) == 1:
        raise ValueError(f"small_images: stem has nothing to open in {name}: its first convolution has stride 1")
    before = _shape(convolution)
    if max(convolution.kernel_size) > 3:
        convolution = nn.Conv2d(
            channels, convolution.out_channels, 3, padding=1, bias=convolution.bias is not None
        )  # torch's own class and initialisation, whatever the model's other convolutions use
        _set(model, place, convolution)
    else:
        convolution.stride = (1, 1)
    done = f"{place}: {before} to {_shape(convolution)}"
    pool = STEMS[".".join(origin(name))]
    if not pool or isinstance(_get(model, pool), (nn.Identity, type(None))):
        return done
    _set(model, pool, nn.Identity())
    return f"{done}; {pool} left out"


def _first_convolution(model: nn.Module, channels: int) -> tuple[str, nn.Conv2d]:
    for place, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels and module.groups == 1:
            return place, module
    raise ValueError("small_images: stem finds no convolution that reads the images")


def _shape(convolution: nn.Conv2d) -> str:
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    return f"{kernel}x{kernel} stride {stride}"


def _get(model: nn.Module, place: str) -> nn.Module | None:
    try:
        return model.get_submodule(place)
    except AttributeError:
        return None


def _set(model: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
