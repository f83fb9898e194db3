"""What went wrong in a leg, from its exception: the kind of failure, and one line about it.

An exception's text may hold a secret of the environment; every message is cleaned of secrets here.
"""

from __future__ import annotations

import os
import re
import sys
import traceback

import torch

from raybench.errors import BadData, FailureKind, InvalidConfig, NotFinite, NotReadable, Unsupported
from raybench.redaction import without_secrets

_LONGEST = 2000  # characters of a message
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  not a folder of temporary files: where loader processes hand over batches
# torch's messages for a batch that does not fit there, in a loader process and in the process that waits for it.
_SHARED_MEMORY_FULL = re.compile(r"DataLoader worker .*Bus error|out of shared memory|shared memory\(shm\)|</torch_\d")


# DistributedDataParallel's message when some parameters' gradients never came.
_UNUSED_PARAMETERS = "expected to have finished reduction in the prior iteration"


def classify(error: BaseException) -> FailureKind:
    """The kind of failure that an exception is."""
    if isinstance(error, NotFinite):
        return "not_finite"
    if isinstance(error, (InvalidConfig, BadData)):
        return "invalid_config"
    if isinstance(error, (Unsupported, NotImplementedError)):
        return "unsupported"
    text = str(error).lower()
    if _UNUSED_PARAMETERS in text:
        return "unsupported"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate" in text:
        return "out_of_memory"
    if _SHARED_MEMORY_FULL.search(str(error)):
        return "out_of_memory"
    # torch kernels' messages for an unsupported type, such as CPU batch_norm with half weights and other inputs.
    if isinstance(error, RuntimeError) and ("expected scalar type" in text or "not implemented for" in text):
        return "unsupported"
    return "error"


def describe(error: BaseException) -> str:
    """One line about an exception: its type, message, and the place that raised it."""
    text = without_secrets(str(error))
    if isinstance(error, BadData):  # a loader worker's has that process's traceback, with the message at its end
        return text.strip().splitlines()[-1].rpartition("BadData: ")[2]
    words = " ".join(text.split())[:_LONGEST]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    if isinstance(error, (InvalidConfig, Unsupported, NotFinite, NotReadable)):
        return words
    if _UNUSED_PARAMETERS in words.lower():
        return (
            "DistributedDataParallel: the loss does not use all of the model's parameters; give the torch arm "
            "find_unused_parameters: true"
        )
    if isinstance(error, AssertionError) and not words and frames:
        words = f"assert without words: {frames[-1].line}"
    told = f"{type(error).__name__}: {words}{place}"
    return f"{_shared_memory()}: {told}" if _SHARED_MEMORY_FULL.search(str(error)) else told


def print_traceback() -> None:
    """Print the current exception to standard error, which is a Ray log file in a sweep."""
    print(without_secrets(traceback.format_exc()), file=sys.stderr, flush=True)


def _shared_memory() -> str:
    """How full /dev/shm is, and the remedy."""
    advice = "give it more room (docker run --shm-size=8g), or take fewer setting.loader_workers"
    try:
        there = os.statvfs(_SHARED_MEMORY)
    except OSError as error:
        return f"{_SHARED_MEMORY} cannot be used ({error.strerror}); {advice}"
    free, size = (blocks * there.f_frsize / 2**20 for blocks in (there.f_bavail, there.f_blocks))
    return f"{_SHARED_MEMORY} is too small for the loader's batches ({free:.0f} of {size:.0f} MiB free now); {advice}"
