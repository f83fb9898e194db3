"""An engine that is slower than another one by a known share of each of its steps, whatever the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raybench.training.engines import Engine


def spin_until(moment: float) -> None:
    """Wait without giving the processor away: `time.sleep` would come back too late by a share of a short step."""
    while time.perf_counter() < moment:
        pass


class Delayed:
    """Stretches what the engine takes of a step, from its first forward to its step's end, by `share`."""

    def __init__(
        self,
        engine: Engine,
        share: float,
        clock: Callable[[], float] = time.perf_counter,
        wait_until: Callable[[float], None] = spin_until,
    ) -> None:
        self._engine, self._share, self._clock, self._wait_until = engine, share, clock, wait_until
        self._begun: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward(self, *inputs: Any, last: bool, **named: Any) -> Any:
        if self._begun is None:
            self._begun = self._clock()
        return self._engine.forward(*inputs, last=last, **named)

    def step(self) -> None:
        self._engine.step()
        assert self._begun is not None
        now = self._clock()
        self._wait_until(now + self._share * (now - self._begun))
        self._begun = None
