"""Checks in a leg's first step, which is never measured: types, gradient norm, memory by part. Gradient norms are
read again during the warm-up.

None of this may fail the leg: a value that cannot be read becomes a missing fact with a reason.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raybench.errors import NotReadable
from raybench.training import facts, memory
from raybench.training.engines import Engine
from raybench.training.failures import describe, print_traceback
from raybench.training.models.layers import num_checkpointed
from raybench.training.ranks import Ranks

_AT_A_TIME = 1 << 20  # values of a gradient, in double precision


class Probed:
    """Wraps an engine for its first step: passes the step on and examines it."""

    def __init__(self, engine: Engine, model: nn.Module, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks
        self.backward = engine.backward
        self.seen = facts.ForwardSeen(model, ranks.device.type)
        self.gradient_norm: float | None = None  # None: not readable
        self.gradient_norms: list[float] = []  # of the steps so far; nan: not readable
        self._gradient_dtype = ""
        self._missing: dict[str, str] = {}  # name -> why it could not be read
        shows = not facts.is_compiled(model) and not num_checkpointed(model)
        self._activations = memory.SavedForBackward(model) if shows else None
        self._gradients: int | None = None
        self._buffer_dtype = facts.dtype_names(b.dtype for b in model.buffers() if b.is_floating_point())

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        first = self._activations is not None and self._activations.num_bytes is None
        with self._activations.watch((inputs, named)) if first and self._activations else contextlib.nullcontext():
            return self._engine.forward(*inputs, last=last, **named)

    def step(self) -> None:
        self.gradient_norm, self._gradient_dtype = self.look_at_norm()
        self._gradients = self._held()["gradients"]
        self._engine.step()
        self.seen.remove()

    def look_at_norm(self) -> tuple[float | None, str]:
        """Called between a step's last backward and the engine's step. Returns (norm or None, the gradients' types)."""
        name = "gradient_norms" if self.gradient_norms else "first_gradient_norm"
        norm, dtypes, unreadable = _over_ranks(self._ranks, self._readable(name, lambda: _squares(self._engine)))
        if unreadable:
            self._missing.setdefault(name, unreadable)
        self.gradient_norms.append(math.nan if norm is None else norm)
        return norm, dtypes

    def memory_parts(self) -> dict[str, int | None]:
        """This rank's bytes by part after the leg's steps; gradients and activations are the first step's.

        None for parts that the engine does not show.
        """
        activations = self._activations.num_bytes if self._activations is not None else None
        return {**self._held(), "gradients": self._gradients, "activations": activations}

    def facts(self) -> dict[str, Any]:
        """The facts that were read; `informative` has `not_readable`, the missing ones with reasons."""
        found = {
            **self.seen.facts(),
            "gradient_dtype": self._gradient_dtype,
            "buffer_dtype": self._buffer_dtype,
            "first_gradient_norm": self.gradient_norm if math.isfinite(self.gradient_norm or 0) else None,
        }
        known = {name: value for name, value in found.items() if value not in ("", None)}
        return {**known, "informative": {"not_readable": self._missing} if self._missing else {}}

    def _held(self) -> dict[str, int | None]:
        """Bytes by part; None for each where the engine cannot be examined."""
        held = self._readable("memory_parts", lambda: memory.bytes_by_part(self._engine.held(), self._ranks.device))
        return held if held is not None else memory.bytes_by_part({}, self._ranks.device)

    def _readable(self, name: str, look: Callable[[], Any]) -> Any:
        """The result of `look`; None where it fails, and the reason is kept."""
        try:
            return look()
        except Exception as error:
            if not isinstance(error, NotReadable):
                print_traceback()
            self._missing[name] = describe(error)
            return None


class NormsAlone:
    """Wraps an engine for later warm-up steps, in which only gradient norms are read."""

    def __init__(self, engine: Engine, probed: Probed) -> None:
        self._engine, self._probed = engine, probed
        self.forward, self.backward = engine.forward, engine.backward

    def step(self) -> None:
        self._probed.look_at_norm()
        self._engine.step()


def gradient_norm(engine: Engine, ranks: Ranks) -> float | None:
    """L2 norm of the averaged gradient, between the last backward and `step`; None where it cannot be read.

    Every rank calls it and gets the same value.
    """
    return _over_ranks(ranks, _squares(engine))[0]


def _squares(engine: Engine) -> tuple[float, bool, set[str]]:
    """(sum of squares of this rank's gradients, whether each rank has its own part, names of their types)."""
    gradients = engine.gradients()
    values = [memory.dense_parts(tensor)[0] for tensor in gradients.tensors]
    total = math.fsum(_norm(value) ** 2 for value in values)
    dtypes = gradients.added_up_in | {value.dtype for value in values}
    return total / gradients.scale**2, gradients.sharded, {facts.dtype_names([dtype]) for dtype in dtypes}


def _norm(values: torch.Tensor) -> float:
    """The L2 norm, summed in double precision: single-precision CPU sums over a large partition are off by 1e-4.

    Works in pieces, so it needs no memory of the gradient's size.
    """
    flat = (torch.view_as_real(values) if values.is_complex() else values).reshape(-1)
    parts = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in flat.split(_AT_A_TIME)]
    return float(torch.linalg.vector_norm(torch.stack(parts))) if parts else 0.0


def _over_ranks(ranks: Ranks, own: tuple[float, bool, set[str]] | None) -> tuple[float | None, str, str]:
    """(norm over all ranks or None, the gradients' types, why it is unknown); the same on every rank."""
    everyone = ranks.gather(own)
    seen = [rank for rank in everyone if rank is not None]
    dtypes = ",".join(sorted(set().union(*(names for _, _, names in seen))))
    if len(seen) < len(everyone):
        return None, dtypes, f"rank {everyone.index(None)} could not read its gradients"
    squares = [square for square, _, _ in seen]
    sharded = any(sharded for _, sharded, _ in seen)
    return math.sqrt(sum(squares) if sharded else squares[0]), dtypes, ""
