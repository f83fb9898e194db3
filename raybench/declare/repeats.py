"""`repeats: {min: 3, max: 16}`: run trials until a setting is settled, and when to look whether it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from raybench.declare.setting import Strict


class Repeats(Strict):
    """Trials of a setting that stops when it is settled: at least `min`, at most `max`, with looks in between."""

    min: int = Field(ge=2, le=1000)
    max: int = Field(ge=2, le=1000)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


@dataclass(frozen=True)
class Look:
    """A look at a sweep: the number of trials of its unsettled settings, and its share of alpha."""

    trials: int
    share: float


def schedule(least: int, most: int) -> tuple[Look, ...]:
    """The looks of `repeats: {min: least, max: most}`: up to four, with 1, 2, 3 and 4 parts of alpha.

    The looks are after `least` and `most` trials, half of `most`, and the geometric mean of `least` and that half: 3,
    5, 8, 16.
    """
    half = most // 2
    numbers = sorted({n for n in (least, round(math.sqrt(least * half)), half, most) if least <= n <= most})
    parts = sum(range(1, len(numbers) + 1))
    return tuple(Look(n, (i + 1) / parts) for i, n in enumerate(numbers))
