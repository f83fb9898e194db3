"""Between a good version and a bad one: which is the first bad, with as few versions measured as that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from raybench.analysis.views.upgrade import VersionInSetting, is_worse

Side = Literal["good", "bad", "unknown"]
_SETTLED: Final = ("helps", "no effect", "hurts")


@dataclass(frozen=True)
class Bisection:
    """What was found between two versions."""

    last_good: str
    first_bad: str
    unknown: tuple[str, ...]  # versions between these two of which nothing can be said: they failed, or are undecided
    measured: tuple[tuple[str, Side], ...]  # in the order in which they were


def bisect(versions: Sequence[str], judge: Callable[[str], Side]) -> Bisection:
    """The first bad of `versions`, whose first is good and whose last is bad; `judge` measures one of those between.

    As with every bisection, versions are taken to be good up to one of them and bad from there on.
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
    """The side of a version from its records against the good one: bad where it is slower or differs in any setting.

    Good where every setting is settled: not slower, and trained the same as far as that was recorded.
    """
    if any(is_worse(record, ("hurts", "differs")) for record in records):
        return "bad"
    verdicts = [(record.against_first or record.against_baseline).judgement.verdict for record in records]
    return "good" if verdicts and all(verdict in _SETTLED for verdict in verdicts) else "unknown"
