"""The user's own code, by its name in a space: `module:name`."""

from __future__ import annotations

import importlib
from typing import Any

from raybench.errors import InvalidConfig
from raybench.text import suggest


def load_own(name: str) -> Any:
    """What a `module:name` names. Raises InvalidConfig where the module has no such name."""
    module, _, wanted = name.partition(":")
    there = importlib.import_module(module)
    if not hasattr(there, wanted):
        own = [one for one, value in vars(there).items() if getattr(value, "__module__", None) == module]
        raise InvalidConfig(f"{module}.py has no {wanted!r}; {suggest(wanted, own) if own else 'it defines nothing'}")
    return getattr(there, wanted)
