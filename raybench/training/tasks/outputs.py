"""What models answer with."""

from __future__ import annotations

from typing import Any

import torch


def logits_of(output: Any) -> torch.Tensor:
    """The logits of a model's output: the output itself, or its `logits` (Hugging Face). Raises ValueError."""
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"the model gives {type(output).__name__}, neither logits nor an output with .logits")
    return logits
