"""The first bad version is found with few measurements, and what cannot be judged is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.analysis.across.bisection import Side, bisect, side_of
from tests.analysis.test_upgrade import off, versions


@given(st.integers(2, 60), st.data())
def test_the_first_bad_one_is_found_in_as_many_steps_as_a_logarithm(number: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, number - 1))
    found = bisect([str(i) for i in range(number)], lambda version: "bad" if int(version) >= first else "good")
    assert (found.last_good, found.first_bad, found.unknown) == (str(first - 1), str(first), ())
    assert len(found.measured) <= math.ceil(math.log2(number - 1))


def test_versions_that_cannot_be_judged_are_passed_over_and_named() -> None:
    sides: dict[str, Side] = {"b": "good", "c": "unknown", "d": "unknown", "e": "bad", "f": "bad"}
    found = bisect("abcdefg", sides.__getitem__)
    assert (found.last_good, found.unknown, found.first_bad) == ("b", ("c", "d"), "e")


def test_a_slower_version_and_one_that_differs_are_bad_and_the_like_is_good(tmp_path: Path) -> None:
    """Both against the baseline: the older at 0.9 s a step is slower than 0.5 s."""
    old, new = versions(tmp_path, norms=off(1.0, 3))
    assert side_of([new]) == "bad"
    assert side_of([]) == "unknown"
    assert old.against_first is None
    assert side_of([old]) == "good"  # the good version itself


@pytest.mark.parametrize("size", [0.01, 1e-9])
def test_training_alone_makes_a_version_bad(tmp_path: Path, size: float) -> None:
    new = versions(tmp_path, seconds={"ddp": 0.5, "deepspeed 0.18.4": 0.9, "deepspeed 0.18.6": 0.9}, norms=off(size, 3))
    assert side_of(new[1:]) == ("bad" if size > 1e-6 else "good")
