"""One leg's memory: peaks of host and accelerator, and bytes by part, on this rank."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from raybench.training.tasks.trees import Tree, tensors

_PROC = Path("/proc/self")
# A tensor that belongs to several parts counts for the first.
PARTS = ("parameters", "gradients", "master_weights", "optimizer_state")


@dataclass(frozen=True)
class Peaks:
    """The most memory that one rank held in a leg, in bytes; the device's are None on a CPU."""

    host: int  # the size at the leg's end where the peak cannot be reset, since it may be an earlier leg's
    device_allocated: int | None = None  # by tensors
    device_reserved: int | None = None  # by torch's allocator
    allocation_retries: int | None = None  # how often the allocator had to free its cache to find memory


def begin_peaks(device: torch.device) -> bool:
    """Reset the peaks. Returns False where the host's peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.reset_accumulated_memory_stats(device)
    try:
        (_PROC / "clear_refs").write_text("5")  # Linux: resets VmHWM
    except OSError:
        return False
    return True


def read_peaks(device: torch.device, was_reset: bool, kept: int = 0) -> Peaks:
    """The peaks since `begin_peaks`, which returned `was_reset`; `kept` bytes on the host are not the leg's."""
    host = _largest_resident_set() if was_reset else None
    if host is None:
        host = int(psutil.Process().memory_info().rss)
    host -= kept
    if device.type != "cuda":
        return Peaks(host)
    return Peaks(
        host,
        int(torch.cuda.max_memory_allocated(device)),
        int(torch.cuda.max_memory_reserved(device)),
        int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)),
    )


def _largest_resident_set() -> int | None:
    with contextlib.suppress(OSError):
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def release(device: torch.device) -> None:
    """Free what a torn-down leg left behind, so that the next leg starts as the first did.

    This includes torch.compile's caches: otherwise it would compile the next batch size's kernels for dynamic sizes,
    and stop compiling after eight models of one class.
    """
    if compiler := sys.modules.get("torch._dynamo"):
        compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError):  # another C library keeps freed pages
        ctypes.CDLL(None).malloc_trim(0)  # glibc: return freed pages


def bytes_by_part(held: Mapping[str, Iterable[torch.Tensor] | None], device: torch.device) -> dict[str, int | None]:
    """Bytes of this rank's tensors by `PARTS`, each storage once; None for a part that `held` does not show.

    `offloaded` counts the bytes of all parts in host memory when training on an accelerator; None on a CPU.
    """
    seen: set[int] = set()
    found: dict[str, int | None] = {}
    offloaded = 0
    for part in PARTS:
        tensors = held.get(part)
        found[part] = None if tensors is None else 0
        for tensor in tensors or ():
            for address, size in _storages(tensor):
                if size and address not in seen:
                    seen.add(address)
                    found[part] = (found[part] or 0) + size
                    offloaded += size if tensor.device.type != device.type else 0
    return {**found, "offloaded": None if device.type == "cpu" else offloaded}


def dense_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Plain tensors with this rank's values: its share of a DTensor, a sparse tensor's values and indices."""
    local: torch.Tensor = getattr(tensor, "_local_tensor", tensor).detach()
    if local.layout == torch.strided:
        return (local,)
    sparse = local.coalesce() if local.layout == torch.sparse_coo else local.to_sparse_coo().coalesce()
    return sparse.values(), sparse.indices()


def checksum(parameters: Iterable[torch.Tensor]) -> int:
    """A number that changes when any of this rank's parameters does."""
    return int(sum(_sum_of_words(dense_parts(parameter)[0]) for parameter in parameters))


def _sum_of_words(value: torch.Tensor) -> torch.Tensor | int:
    """A tensor's bytes added up as 64-bit integers that wrap around: one pass over them, without a copy."""
    content = value.contiguous().reshape(-1).view(torch.uint8)
    start = min(-content.storage_offset() % 8, len(content))  # a view of integers begins at a whole one
    end = len(content) - (len(content) - start) % 8
    words = content[start:end].view(torch.int64) if start < end else content[:0]
    return sum(part.sum() for part in (content[:start], words, content[end:]) if len(part))


def _storages(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """The address and size of each storage of a tensor; of a DTensor's local share."""
    storages = (part.untyped_storage() for part in dense_parts(tensor))
    return [(storage.data_ptr(), storage.nbytes()) for storage in storages]


class SavedForBackward:
    """Bytes that the forward pass keeps for the backward pass: activations, without the input and the weights.

    Measured in one micro-batch of a leg's first step. Autocast's copies of weights count, because they are kept too.
    None for a compiled model, whose kernels decide what they keep, and for one that recomputes its activations, because
    hooks do not see those.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights: list[int] = []  # storages of the layers now running; sharded weights are whole only then
        self._kept: dict[int, int] = {}
        self.num_bytes: int | None = None

    @contextlib.contextmanager
    def watch(self, inputs: Tree) -> Iterator[None]:
        """Watch the forward pass inside the context; afterwards `num_bytes` is what it kept."""
        given = {address for tensor in tensors(inputs) for address, _ in _storages(tensor)}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            for address, size in _storages(tensor):
                if address not in given and address not in self._weights:
                    self._kept[address] = size
            return tensor

        layers = [module for module in self._model.modules() if module._parameters]
        handles = [layer.register_forward_pre_hook(self._enter) for layer in layers]
        handles += [layer.register_forward_hook(self._leave) for layer in layers]
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()
        self.num_bytes = sum(self._kept.values())

    def _enter(self, layer: nn.Module, _: Any) -> None:
        self._weights += self._addresses(layer)

    def _leave(self, layer: nn.Module, *_: Any) -> None:
        del self._weights[len(self._weights) - len(self._addresses(layer)) :]

    def _addresses(self, layer: nn.Module) -> list[int]:
        weights = (weight for weight in layer._parameters.values() if weight is not None)
        return [address for weight in weights for address, _ in _storages(weight)]
