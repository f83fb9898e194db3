"""Language models of transformers, built from a configuration with random weights; nothing is downloaded unasked.

Everything that changes the computation is explicit: dropout is 0 unless `model_options` set it, the vocabulary is the
data's, attention and tied embeddings are recorded.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from raybench.declare import catalog
from raybench.declare.setting import Setting
from raybench.errors import InvalidConfig
from raybench.text import suggest
from raybench.training.models.torchvision_ops import declare_missing

Options = dict[str, Any]
_ATTENTION = "attn_implementation"


def build_config(setting: Setting, vocabulary: int | None) -> Any:
    """The configuration of a setting's model for at least `vocabulary` tokens (None: its own).

    Raises InvalidConfig for unknown options, and for a vocabulary that is too small.
    """
    declare_missing()  # transformers imports torchvision
    from transformers import logging

    logging.set_verbosity_error()
    kind, options = _named(setting)
    config = _of(kind, options)
    text = config.get_text_config()
    known = {**text.to_dict(), **text.attribute_map}
    asked = {key: value for key, value in setting.model_options.items() if key != _ATTENTION}
    for key in asked:
        if key not in known:
            raise InvalidConfig(f"model_options: {setting.model} has no {key!r}; {suggest(key, known)}")
    changes: Options = {"use_cache": False, **_without_dropout(text), **_fitted(text, setting, vocabulary), **asked}
    if text is config:
        config = _of(kind, {**options, **changes})  # rebuilt, so that derived values such as the head size follow
    else:
        for key, value in changes.items():
            setattr(text, key, value)
    found = config.get_text_config().vocab_size
    if vocabulary is not None and found < vocabulary:
        raise InvalidConfig(f"model_options: a vocab_size of {found} is less than the data's {vocabulary}")
    return config


def _named(setting: Setting) -> tuple[str, Options]:
    """The type named by a setting's model, and the initial options of its configuration."""
    from transformers import PreTrainedConfig

    folder, name = catalog.config_folder(setting.model), setting.model.removeprefix("hf/")
    kind, options = catalog.PRESETS.get(name, (name, {}))
    if folder is None and "/" not in kind:
        return kind, options
    try:
        written, _ = PreTrainedConfig.get_config_dict(folder or kind, local_files_only=not setting.download)
    except (OSError, ValueError) as error:
        hint = "" if folder or setting.download else "; download: true fetches it"
        raise InvalidConfig(f"{setting.model}: {' '.join(str(error).split()):.200}{hint}") from error
    if "model_type" not in written:
        raise InvalidConfig(f"{setting.model}: its config.json names no model_type")
    unused = ("model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path", _ATTENTION)
    return str(written["model_type"]), {key: value for key, value in written.items() if key not in unused}


def _of(kind: str, options: Options) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind, **options)
    except Exception as error:  # configurations check themselves, each in its own way
        raise InvalidConfig(f"model_options: hf/{kind}: {' '.join(str(error).split()):.300}") from error


def _without_dropout(config: Any) -> Options:
    chances = {key: value for key, value in config.to_dict().items() if re.search("drop", key)}
    return {key: 0.0 for key, value in chances.items() if isinstance(value, float) and value}


def _fitted(config: Any, setting: Setting, vocabulary: int | None) -> Options:
    """The data's vocabulary, dropping special tokens outside it; and positions for a whole sequence."""
    found: Options = {}
    known = setting.model_options.get("vocab_size", vocabulary)
    if known is not None:
        special = [key for key in config.to_dict() if re.fullmatch(r"(bos|eos|pad|sep|cls)_token_id", key)]
        outside = [key for key in special if isinstance(n := getattr(config, key), int) and n >= known]
        found = {**dict.fromkeys(outside), "vocab_size": known}
    positions = getattr(config, "max_position_embeddings", None)
    needed = (setting.sequence_length or 0) + (2 if getattr(config, "pad_token_id", None) == 1 else 0)  # RoBERTa's kin
    if isinstance(positions, int) and 0 < positions < needed:
        found["max_position_embeddings"] = needed
    return found


def objective(config: Any) -> str:
    """`causal` or `masked`: the training objective of a model type."""
    found = catalog.language_models().get(config.model_type)
    if found is None:
        raise InvalidConfig(f"{config.model_type} has no head for language modelling in transformers")
    return found


def build(config: Any, setting: Setting) -> nn.Module:
    """The model on torch's default device, in fp32, from torch's random state."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForCausalLM if objective(config) == "causal" else AutoModelForMaskedLM
    attention = setting.model_options.get(_ATTENTION)
    try:
        model: nn.Module = kind.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except (ValueError, ImportError) as error:
        raise InvalidConfig(f"{setting.model}: {' '.join(str(error).split()):.300}") from error
    return model


def options_of(model: Any, setting: Setting) -> Options:
    """The options that the model was built with."""
    config = model.config.get_text_config()
    dropout = {key: value for key, value in config.to_dict().items() if "drop" in key and isinstance(value, float)}
    return {
        **{key: getattr(config, key, None) for key in setting.model_options if key != _ATTENTION},
        "model_type": model.config.model_type,
        "vocabulary": config.vocab_size,
        "attention": model.config._attn_implementation,
        "tied_embeddings": _tied(model),
        "dropout": max(dropout.values(), default=0.0),
        "max_positions": getattr(config, "max_position_embeddings", None),
    }


def _tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def multiplying_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters that a token is multiplied with, and how many of them are frozen. Look-up tables do not count, unless
    the head uses the same table."""
    heads = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)} - heads
    multiplying = [parameter for parameter in model.parameters() if id(parameter) not in tables]
    return sum(p.numel() for p in multiplying), sum(p.numel() for p in multiplying if not p.requires_grad)


def attention_flops(model: Any, length: int) -> int | None:
    """FLOPs of attention scores and their sums for one token, forward and backward: 12 layers x heads x size x length.

    None for a mixture of experts, where not every parameter takes part, and for models without such attention.
    """
    config = getattr(model, "config", None)
    if config is None:
        return None
    config = config.get_text_config()
    experts = [key for key in config.to_dict() if re.search("experts", key) and getattr(config, key)]
    layers, heads = (getattr(config, key, None) for key in ("num_hidden_layers", "num_attention_heads"))
    if experts or not layers or not heads:
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(12 * layers * heads * size * length)
