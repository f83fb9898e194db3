"""What a worker's imports leave to the garbage collector: nothing, while it imports and in its legs.

Imports make half a million objects that live as long as the process. Collections would visit them again and again.
"""

from __future__ import annotations

import gc
import sys

_A_LIBRARY = 50  # modules
_modules_frozen = 0


def begin() -> None:
    """Collect no garbage until `freeze`: a sixth of the time that a worker's imports take.

    Called before a trial's libraries are imported, and by Ray in each new worker, before torch or anything of raybench.
    """
    gc.disable()


def freeze() -> None:
    """Exclude everything alive now, mostly modules, from later garbage collections.

    Called before a trial's first leg; freezes nothing unless a library was imported since the last call. Otherwise a
    collection visits all of it (0.3 s, twice a leg). Never undone: leftovers of legs are created later and are still
    collected.
    """
    global _modules_frozen
    gc.enable()
    if len(sys.modules) - _modules_frozen < _A_LIBRARY:
        return
    gc.collect()
    gc.freeze()
    _modules_frozen = len(sys.modules)
