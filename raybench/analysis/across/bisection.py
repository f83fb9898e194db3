"""Finds the first bad version between a good and a bad one, measuring as few versions as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from raybench.analysis.across.upgrade import VersionInSetting, is_worse

Side = Literal["good", "bad", "unknown"]
_SETTLED: Final = ("helps", "no effect", "hurts")


@dataclass(frozen=True)
class Bisection:
    """The result of a search between two versions."""

    last_good: str
    first_bad: str
    unknown: tuple[str, ...]  # versions between these two that failed or are undecided
    measured: tuple[tuple[str, Side], ...]  # in the order of measurement


def bisect(versions: Sequence[str], judge: Callable[[str], Side]) -> Bisection:
    """The first bad of `versions`, whose first is good and last is bad; `judge` measures a version in between.

    As in every bisection, versions are assumed good up to some version and bad after it.
    """
    low, high = 0, len(versions) - 1
    measured: dict[int, Side] = {}
    while between := [i for i in range(low + 1, high) if i not in measured]:
        middle = min(between, key=lambda i: abs(2 * i - low - high))
        measured[middle] = judge(versions[middle])
        if measured[middle] == "good":
            low = middle
        elif measured[middle] == "bad":
            high = middle
    return Bisection(
        versions[low], versions[high], tuple(versions[low + 1 : high]),
        tuple((versions[i], side) for i, side in measured.items()),
    )  # fmt: skip


def side_of(records: Sequence[VersionInSetting]) -> Side:
    """A version's side, from its records against the good one: bad where it is slower or differs in any setting.

    Good where every setting is settled: not slower, and the same training as far as recorded.
    """
    if any(is_worse(record, ("hurts", "differs")) for record in records):
        return "bad"
    verdicts = [(record.against_first or record.against_baseline).judgement.verdict for record in records]
    return "good" if verdicts and all(verdict in _SETTLED for verdict in verdicts) else "unknown"
