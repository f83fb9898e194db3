"""The caveats' table: every kind is found by something, and the heaviest come first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raybench.analysis import analyse
from raybench.caveats import KINDS, Weight, caveat, ranked
from tests.analysis.ledgers import leg, paired, texts, write
from tests.conftest import ROOT


def test_every_kind_of_caveat_is_found_by_the_analysis_and_none_is_without_words() -> None:
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "raybench" / "analysis").rglob("*.py"))
    assert [kind for kind in KINDS if f'"{kind}"' not in sources] == []
    assert set(re.findall(r'caveat\(\s*"(\w+)"', sources)) <= set(KINDS)


def test_words_say_one_trial_and_leave_out_an_interval_that_does_not_exist() -> None:
    told: dict[str, Any] = {"arm": "zero1", "failed": 1, "legs": 2}
    assert caveat("legs_failed_rest", **told, trials=1).text.endswith("rests on the 1 trial in which both ran")
    points: dict[str, Any] = {"arm": "zero1", "difference": -0.015, "percent": 1.0}
    assert caveat("less_accurate", **points, interval=(None, None)).text.endswith("-1.50 points, margin 1")
    assert "-1.50 points [-2.00, -1.00], margin 1" in caveat("less_accurate", **points, interval=(-0.02, -0.01)).text


def test_a_caveat_that_changes_the_verdict_comes_before_those_that_do_not(tmp_path: Path) -> None:
    rows = paired([1.10, 1.12, 1.08], facts={})
    rows += [leg("ddp", 9), leg("zero1", 9, failure_kind="error")]
    for row in rows[1:6:2]:
        row["step_seconds"] = [9.0, 0.9, 0.9, 0.9, 0.9, 4.0]  # the mean says slower, the median faster
        row["data_seconds"] = [0.0] * 6
    (found,) = analyse([write(tmp_path / "legs.parquet", rows)]).comparisons
    weights = [one.weight for one in ranked(found.caveats)]
    assert weights == sorted(weights)
    assert {Weight.DOUBTS, Weight.TELLS} <= set(weights)
    assert any(text.startswith("1 of 4 legs of zero1 failed") for text in texts(found))


@pytest.mark.parametrize("value", [[0.9, 0.95], {"stem": {"width": 3}}, [{"flip": 0.5}, [1, 2]], "text", None, 2])
def test_a_value_of_any_type_is_told_as_the_facts_write_it(value: Any) -> None:
    one = caveat("unequal", what="fact", base=value, own=1, baseline="ddp", arm="zero1")
    assert one.text == f"fact: {value} in ddp, 1 in zero1"
    assert len({one, one}) == 1
