"""Every default of the installed DeepSpeed's configuration as JSON, one dotted name a line.

`python -m tests.training.deepspeed_defaults tests/training/deepspeed_defaults.json` records them anew, after a look
at what changed: a default that bears on training has to be written out by raybench, or be among the facts.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

# What was given to get the rest, and what depends on the machine.
_NOT_DEFAULTS = {"train_batch_size", "train_micro_batch_size_per_gpu", "_param_dict", "global_rank", "world_size"}


def defaults() -> dict[str, Any]:
    """Dotted name -> default, of the configuration of a single process that says nothing."""
    from deepspeed.runtime.config import DeepSpeedConfig

    config = DeepSpeedConfig({"train_micro_batch_size_per_gpu": 1})
    return dict(sorted(_flat({k: v for k, v in vars(config).items() if k not in _NOT_DEFAULTS}, "")))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = dict(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (enum.Enum, type)):
        value = vars(value)
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    else:
        plain = value.value if isinstance(value, enum.Enum) else value
        told = isinstance(plain, str | int | float | bool | list | dict | None)
        yield name, plain if told else f"a {type(plain).__name__}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(defaults(), indent=1) + "\n")
