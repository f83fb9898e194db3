"""Memory of one leg: peaks of the host and the accelerator, and bytes by what they hold, on this rank."""

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
# A tensor that serves two of these is counted for the first.
PARTS = ("parameters", "gradients", "master_weights", "optimizer_state")


_A_LIBRARY = 50  # modules
_modules_frozen = 0


@dataclass(frozen=True)
class Peaks:
    """The most that one rank held in a leg, in bytes; the device's are None on a CPU."""

    host: int  # where the system cannot begin a new peak, the size at the leg's end: an earlier leg's would stand here
    device_allocated: int | None = None  # by tensors
    device_reserved: int | None = None  # by torch's allocator, from the driver
    allocation_retries: int | None = None  # how often it had to give its cache back to find room


def begin_peaks(device: torch.device) -> bool:
    """Begin a new peak here. False where the host's peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.reset_accumulated_memory_stats(device)
    try:
        (_PROC / "clear_refs").write_text("5")  # Linux: resets VmHWM
    except OSError:
        return False
    return True


def read_peaks(device: torch.device, was_reset: bool, kept: int = 0) -> Peaks:
    """The peaks since `begin_peaks`, which said `was_reset`; `kept` bytes on the host are not the leg's."""
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


def freeze_imports() -> None:
    """Take everything alive now, which is modules nearly all of it, out of every later garbage collection.

    Called before a trial's first leg; does nothing where no library was imported since the last time. A collection
    looks at half a million objects otherwise (0.3 s, twice a leg). Never undone: what a leg leaves is made later,
    and is still collected.
    """
    global _modules_frozen
    if len(sys.modules) - _modules_frozen < _A_LIBRARY:
        return
    gc.collect()
    gc.freeze()
    _modules_frozen = len(sys.modules)


def release(device: torch.device) -> None:
    """Give back what a torn-down leg left behind, so that the next leg starts as the first did.

    What torch.compile has made is part of that: it would make the next batch size's kernels for sizes of any kind, and
    after eight models of one class run the others uncompiled.
    """
    if compiler := sys.modules.get("torch._dynamo"):
        compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError):  # another C library: its freed pages stay with the process
        ctypes.CDLL(None).malloc_trim(0)  # glibc: hand freed pages back


def bytes_by_part(held: Mapping[str, Iterable[torch.Tensor] | None], device: torch.device) -> dict[str, int | None]:
    """Bytes of this rank's tensors by `PARTS`, each storage once; None for a part that `held` does not show.

    `offloaded` is how many of all these lie in host memory while the training's device is an accelerator, else None.
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
    """The plain tensors with this rank's values: its share of a DTensor, the values and indices of a sparse tensor."""
    local: torch.Tensor = getattr(tensor, "_local_tensor", tensor).detach()
    if local.layout == torch.strided:
        return (local,)
    sparse = local.coalesce() if local.layout == torch.sparse_coo else local.to_sparse_coo().coalesce()
    return sparse.values(), sparse.indices()


def checksum(parameters: Iterable[torch.Tensor]) -> float:
    """A number that changes when any of this rank's parameters does."""
    values = (dense_parts(parameter)[0] for parameter in parameters)
    return float(sum(value.abs().double().sum() for value in values))


def _storages(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Where a tensor's bytes lie, and how many each whole storage has; of a DTensor, this rank's share."""
    storages = (part.untyped_storage() for part in dense_parts(tensor))
    return [(storage.data_ptr(), storage.nbytes()) for storage in storages]


class SavedForBackward:
    """Bytes that the forward pass keeps for the backward pass: the activations, the input and the weights left out.

    Looked at in one micro-batch of a leg's first step. Copies of weights that autocast makes are counted, because they
    are kept too. None of a compiled model, whose kernels decide what they keep, and of one that recomputes its
    activations, which are kept nowhere that a hook sees.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights: list[int] = []  # storages of the layers that are at work, whole only meanwhile when sharded
        self._kept: dict[int, int] = {}
        self.num_bytes: int | None = None

    @contextlib.contextmanager
    def watch(self, inputs: Tree) -> Iterator[None]:
        """Watch the forward pass inside; then `num_bytes` says what it kept."""
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
