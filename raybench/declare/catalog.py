"""The model names that a space may use, known without importing torch.

timm and torchvision declare each model with a `register_model` decorator. Finding these in their sources takes a tenth
of a second; importing them takes five.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raybench.declare.datasets import data_folder

OWN_MODELS = ("lenet", "lenet5")
HF_MODELS = ("cvt_13", "cvt_21")  # transformers' image models
# Well-known sizes of language models: transformers' type, and the options of its configuration.
_LLAMA: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 128_256, "rope_theta": 500_000.0}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-medium": ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),  # 355M parameters; gpt2 itself has 124M
    "gpt2-large": ("gpt2", {"n_embd": 1280, "n_layer": 36, "n_head": 20}),  # 774M
    "gpt2-xl": ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),  # 1.5B
    "llama-1b": ("llama", {
        **_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "tie_word_embeddings": True,
    }),
    "llama-3b": ("llama", {
        **_LLAMA, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "tie_word_embeddings": True,
    }),
    "llama-8b": ("llama", {
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
    }),
}  # fmt: skip

_REGISTERED = re.compile(r"^@register_model(?:\((?P<arguments>[^)]*)\))?\s*\n(?:@.*\n)*def (?P<name>\w+)", re.MULTILINE)
# Source modules of families other than plain CNNs.
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
    """Model name -> source module, from a package's sources; empty where it is not installed."""
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


@cache
def language_models() -> dict[str, str]:
    """transformers' types of language models, each with its objective: `masked` for types with a head for it, else
    `causal`. Read from its sources; empty where it is not installed."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    source = (Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for objective, name in (("causal", "CAUSAL"), ("masked", "MASKED")):
        _, _, mapping = source.partition(f"MODEL_FOR_{name}_LM_MAPPING_NAMES = OrderedDict(")
        for kind, cls in re.findall(r'\("([\w-]+)", "(\w+)"\)', mapping.partition("\n)\n")[0]):
            if not cls.endswith("ForConditionalGeneration"):  # encoder-decoder models have another objective
                found[kind] = objective
    return found


def config_folder(model: str) -> Path | None:
    """The folder with transformers' config.json that a model names; None where it names none."""
    if not re.search(r"[/.~]", model) or ":" in model:
        return None
    folder = data_folder(model)
    return folder if (folder / "config.json").is_file() else None


def known_models() -> set[str]:
    """Every model name that a space may use; only raybench's own if neither library is installed."""
    language = {f"hf/{name}" for name in [*language_models(), *PRESETS]}
    return {*OWN_MODELS, *HF_MODELS, *timm_models(), *torchvision_models(), *language}


def origin(model: str) -> tuple[str, str]:
    """Where a model comes from: its library and the module there that defines it.

    Libraries are `raybench`, `transformers`, `hf` (transformers' language models; here the module is the type), `timm`,
    `torchvision`, `own` (module:function) and `unknown`. A name in both timm and torchvision means timm's;
    `torchvision/NAME` means the other.
    """
    prefix, _, name = model.rpartition("/")
    if ":" in model:
        return "own", model.partition(":")[0]
    if model.startswith("hf/"):
        kind = PRESETS.get(name, (name, {}))[0]
        hub = prefix != "hf"  # hf/ORGANIZATION/NAME: a configuration on the Hugging Face hub
        return ("hf", kind) if hub or kind in language_models() else ("unknown", "")
    if config_folder(model) is not None:
        return "hf", "folder"
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
    """The file of a `module:function` model, which must be in the working tree.

    Raises ValueError where it is not: a space cannot name other code.
    """
    module, _, function = model.partition(":")
    if module.endswith(".py"):
        raise ValueError(f"{model!r}: name the module without .py, as in {module.removesuffix('.py')}:{function}")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError(f"{model!r} is neither a model name nor module:function")
    file = Path.cwd().joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise ValueError(f"{model!r}: no file {file.relative_to(Path.cwd())} here that could define {function}()")
    return file


def family(model: str) -> str:
    """The family of a model, for grouping: `lenet`, `cnn`, `vit`, `hybrid`, `mlp`, `language`, or `own` for
    module:function."""
    library, source = origin(model)
    if library == "hf":
        return "language"
    if library == "own":
        return "own"
    return _FAMILY_OF_SOURCE.get(source, "cnn")
