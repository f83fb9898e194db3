"""raybench: does DeepSpeed help my model on my machines, by how much, and am I sure?

from raybench import analyse, plan, read_ledger, run
analyse("mlruns/ledger/cnns/friday")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raybench.version import __version__

if TYPE_CHECKING:
    from raybench.api import Answer, Outlook, analyse, plan, read_ledger, run

__all__ = ["Answer", "Outlook", "__version__", "analyse", "plan", "read_ledger", "run"]


def __getattr__(name: str) -> Any:
    """The names of `raybench.api`, imported when first asked for: a command's start must not wait for them."""
    if name not in __all__:
        raise AttributeError(f"module 'raybench' has no attribute {name!r}")
    return getattr(importlib.import_module("raybench.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
