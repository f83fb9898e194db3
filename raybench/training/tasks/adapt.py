"""Which parameters are trained: all, those named by `trainable`, or low-rank adapters beside the weights (LoRA)."""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec

from torch import nn

from raybench.declare.setting import Setting
from raybench.errors import InvalidConfig


def adapt(model: nn.Module, setting: Setting) -> nn.Module:
    """The model with its untrained parameters frozen. Raises InvalidConfig where nothing would be trained."""
    if setting.lora is not None:
        return _with_lora(model, setting)
    if setting.trainable is not None:
        wanted = re.compile(setting.trainable)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted.search(name) is not None)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            names = ", ".join(name for name, _ in list(model.named_parameters())[:3])
            raise InvalidConfig(f"trainable: {setting.trainable!r} finds no parameter; they are named as {names} ...")
    return model


def _with_lora(model: nn.Module, setting: Setting) -> nn.Module:
    lora = setting.lora
    assert lora is not None
    if find_spec("peft") is None:
        raise InvalidConfig("lora comes from peft, which is not installed: pip install 'raybench[lora]'")
    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets) or None
        )
        with warnings.catch_warnings(action="ignore"):  # peft handles GPT-2's transposed weights, and warns about it
            adapted: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidConfig(f"lora: {' '.join(str(error).split()):.300}") from error
    return adapted
