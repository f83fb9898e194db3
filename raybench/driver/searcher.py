"""The searcher that Ray Tune asks for the next block.

It is a narrow adapter: the function `next_block`, free of Ray, decides which block comes next or that none is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from raybench.driver.messages import Block

_SECONDS_BETWEEN_QUESTIONS = 1.0  # while running blocks may bring more


class BlockSearcher(Searcher):  # type: ignore[misc]
    """Hands out blocks by number, at most `most_at_once` at a time; that limit may grow."""

    def __init__(
        self,
        next_block: Callable[[int], Block | None],
        most_at_once: int,
        more: Callable[[], bool] = lambda: False,
        given_up: Callable[[int], None] = lambda number: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`next_block`: the block with a number, counted from 0; None where there is none now. `more` is called when no
        block runs and none is left, and says whether more have appeared. `given_up` is called with the number of a
        block that Tune does not restart any more."""
        super().__init__()
        self.most_at_once = most_at_once
        self._next_block, self._more, self._given_up, self._clock = next_block, more, given_up, clock
        self._num_blocks = 0  # handed out
        self._running: dict[str, int] = {}  # the blocks' numbers by Tune's ids
        self._asked_at = float("-inf")

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next block's number; None for none now, FINISHED where none runs and none is left."""
        if len(self._running) >= self.most_at_once:
            return None
        if self._running and self._clock() - self._asked_at < _SECONDS_BETWEEN_QUESTIONS:
            return None
        block = self._next_block(self._num_blocks)
        while block is None and not self._running and self._more():
            block = self._next_block(self._num_blocks)
        if block is None:
            self._asked_at = self._clock()
            return None if self._running else str(Searcher.FINISHED)
        self._num_blocks += 1
        self._running[trial_id] = block.number
        return {"block": block.number}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A block has ended, successfully or not."""
        number = self._running.pop(trial_id, None)
        if error and number is not None:
            self._given_up(number)
        self._asked_at = float("-inf")

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Saves nothing: the recorder knows which blocks were handed out."""

    def save(self, checkpoint_path: str) -> None:
        """See `save_to_dir`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save_to_dir`."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Tune writes a copy of its searcher to disk, which nobody reads."""
        return (Searcher, ())
