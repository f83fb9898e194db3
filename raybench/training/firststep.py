"""What is looked at in a leg's first step, which is never measured: types, the gradient's norm, who holds memory.

None of it may cost the leg: what cannot be read is a fact that is missing, with its reason.
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
from raybench.training.blocks import num_checkpointed
from raybench.training.engines import Engine
from raybench.training.failures import describe, print_traceback
from raybench.training.ranks import Ranks


class Probed:
    """An engine for its first step: takes it as the engine does, and looks."""

    def __init__(self, engine: Engine, model: nn.Module, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks
        self.backward = engine.backward
        self.seen = facts.ForwardSeen(model, ranks.device.type)
        self.gradient_norm: float | None = None  # None: not readable
        self._gradient_dtype = ""
        self._missing: dict[str, str] = {}  # what could not be read -> why
        shows = not facts.is_compiled(model) and not num_checkpointed(model)
        self._activations = memory.SavedForBackward(model) if shows else None
        self._gradients: int | None = None
        self._buffer_dtype = facts.dtype_names(b.dtype for b in model.buffers() if b.is_floating_point())

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        first = self._activations is not None and self._activations.num_bytes is None
        with self._activations.watch((inputs, named)) if first and self._activations else contextlib.nullcontext():
            return self._engine.forward(*inputs, last=last, **named)

    def step(self) -> None:
        norm = self._readable("first_gradient_norm", lambda: _squares(self._engine))
        self.gradient_norm, self._gradient_dtype, unreadable = _over_ranks(self._ranks, norm)
        if unreadable:
            self._missing.setdefault("first_gradient_norm", unreadable)
        self._gradients = self._held()["gradients"]
        self._engine.step()
        self.seen.remove()

    def memory_parts(self) -> dict[str, int | None]:
        """This rank's bytes by what they hold, after the leg's steps; gradients and activations are those of the first.

        None where the engine does not show them.
        """
        activations = self._activations.num_bytes if self._activations is not None else None
        return {**self._held(), "gradients": self._gradients, "activations": activations}

    def facts(self) -> dict[str, Any]:
        """What was seen. `informative` holds, as `not_readable`, what was not and why."""
        found = {
            **self.seen.facts(),
            "gradient_dtype": self._gradient_dtype,
            "buffer_dtype": self._buffer_dtype,
            "first_gradient_norm": self.gradient_norm if math.isfinite(self.gradient_norm or 0) else None,
        }
        known = {name: value for name, value in found.items() if value not in ("", None)}
        return {**known, "informative": {"not_readable": self._missing} if self._missing else {}}

    def _held(self) -> dict[str, int | None]:
        """Bytes by part; None for all of them where the engine cannot be looked into."""
        held = self._readable("memory_parts", lambda: memory.bytes_by_part(self._engine.held(), self._ranks.device))
        return held if held is not None else memory.bytes_by_part({}, self._ranks.device)

    def _readable(self, name: str, look: Callable[[], Any]) -> Any:
        """What `look` sees; None, with the reason kept, where it fails."""
        try:
            return look()
        except Exception as error:
            if not isinstance(error, NotReadable):
                print_traceback()
            self._missing[name] = describe(error)
            return None


def gradient_norm(engine: Engine, ranks: Ranks) -> float | None:
    """L2 norm of the averaged gradient, between the last backward and `step`; None where it is not readable.

    Every rank calls it, and gets the same.
    """
    return _over_ranks(ranks, _squares(engine))[0]


def _squares(engine: Engine) -> tuple[float, bool, set[str]]:
    """(the sum of squares of this rank's gradients, whether other ranks hold others, the names of their types)."""
    gradients = engine.gradients()
    values = [memory.dense_parts(tensor)[0] for tensor in gradients.tensors]
    norms = [torch.linalg.vector_norm(value.float() if value.dtype.itemsize < 4 else value) for value in values]
    total = sum(float(norm) ** 2 for norm in norms)
    return total / gradients.scale**2, gradients.sharded, {facts.dtype_names([value.dtype]) for value in values}


def _over_ranks(ranks: Ranks, own: tuple[float, bool, set[str]] | None) -> tuple[float | None, str, str]:
    """(the norm over all ranks or None, the gradients' types, why it is not known); the same on every rank."""
    everyone = ranks.gather(own)
    seen = [rank for rank in everyone if rank is not None]
    dtypes = ",".join(sorted(set().union(*(names for _, _, names in seen))))
    if len(seen) < len(everyone):
        return None, dtypes, f"rank {everyone.index(None)} could not read its gradients"
    squares = [square for square, _, _ in seen]
    sharded = any(sharded for _, sharded, _ in seen)
    return math.sqrt(sum(squares) if sharded else squares[0]), dtypes, ""
