"""The names that a space may use for models, known without importing torch.

timm and torchvision declare each model with a `register_model` decorator; reading their sources for it
takes a tenth of a second, where importing them takes five.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OWN_MODELS = ("lenet", "lenet5")
HF_MODELS = ("cvt_13", "cvt_21")  # of the optional extra `hf`

_REGISTERED = re.compile(r"^@register_model(?:\((?P<arguments>[^)]*)\))?\s*\n(?:@.*\n)*def (?P<name>\w+)", re.MULTILINE)
# Source modules of the families that are not plain CNNs.
_VIT_SOURCES = """
    vision_transformer vision_transformer_relpos vision_transformer_sam deit deepseek_vit gemma4_vit qwen3_vit
    naflexvit swin_transformer swin_transformer_v2 swin_transformer_v2_cr beit cait eva xcit pvt_v2 twins volo
    mvitv2 nest tnt davit hiera hieradet_sam2 crossvit maxvit
"""
_HYBRID_SOURCES = """
    vision_transformer_hybrid coat convit levit mobilevit maxxvit efficientformer efficientformer_v2 edgenext
    fastvit nextvit pit visformer repvit tiny_vit swiftformer shvit efficientvit_mit efficientvit_msra gcvit
    byoanet vitamin iformer metaformer efficientvim lowformer
"""
_FAMILY_OF_SOURCE = {
    **dict.fromkeys(_VIT_SOURCES.split(), "vit"),
    **dict.fromkeys(_HYBRID_SOURCES.split(), "hybrid"),
    "mlp_mixer": "mlp",
    "cvt": "hybrid",
    "lenet": "lenet",
}


@cache
def _registered(package: str, folder: str) -> dict[str, str]:
    """Model name -> source module, read from a package's sources; empty where it is not installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return {}
    found: dict[str, str] = {}
    for source in sorted((Path(spec.origin).parent / folder).glob("*.py")):
        for match in _REGISTERED.finditer(source.read_text(encoding="utf-8")):
            named = re.search(r"name=['\"](\w+)['\"]", match["arguments"] or "")
            found[named[1] if named else match["name"]] = source.stem
    return found


def timm_models() -> dict[str, str]:
    """timm's model names, each with the module that defines it."""
    return _registered("timm", "models")


def torchvision_models() -> dict[str, str]:
    """torchvision's classifier names, each with the module that defines it."""
    return _registered("torchvision", "models")


def known_models() -> set[str]:
    """Every model name that a space may use; only raybench's own where neither library is installed."""
    return {*OWN_MODELS, *HF_MODELS, *timm_models(), *torchvision_models()}


def origin(model: str) -> tuple[str, str]:
    """Where a model comes from: its library and the module there that defines it.

    Libraries are `raybench`, `transformers`, `timm`, `torchvision`, `own` (module:function) and `unknown`. A name that
    timm and torchvision both have is timm's; `torchvision/NAME` is the other.
    """
    prefix, _, name = model.rpartition("/")
    if ":" in model:
        return "own", model.partition(":")[0]
    if not prefix and name in OWN_MODELS:
        return "raybench", "lenet"
    if not prefix and name in HF_MODELS:
        return "transformers", "cvt"
    if prefix in ("", "timm") and name in timm_models():
        return "timm", timm_models()[name]
    if prefix in ("", "torchvision") and name in torchvision_models():
        return "torchvision", torchvision_models()[name]
    return "unknown", ""


def own_model_file(model: str) -> Path:
    """The file of a `module:function` model, which must lie in the working tree.

    Raises ValueError where it does not: a space can name no other code.
    """
    module, _, function = model.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError(f"{model!r} is no model name and no module:function")
    file = Path.cwd().joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise ValueError(f"{model!r}: there is no {file.relative_to(Path.cwd())} here, from which to take {function}()")
    return file


def family(model: str) -> str:
    """The family of a model, for grouping: `lenet`, `cnn`, `vit`, `hybrid`, `mlp`, or `own` for module:function."""
    library, source = origin(model)
    if library == "own":
        return "own"
    return _FAMILY_OF_SOURCE.get(source, "cnn")
