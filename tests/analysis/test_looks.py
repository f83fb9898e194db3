"""When a sweep is looked at, what stands, which settings go on, and what is stored of it."""

from __future__ import annotations

import numpy as np
import pytest

from raybench.analysis.claims import Rule, judge
from raybench.analysis.looks import (
    LookRecord,
    Trials,
    differing_looks,
    from_json,
    judge_looks,
    next_trials,
    record_look,
    to_json,
)
from raybench.declare.repeats import Look, schedule
from tests.analysis.simulated import summaries

RULE = Rule(float(np.log(1.03)), 0.05)


def test_the_looks_of_3_to_16() -> None:
    looks = schedule(3, 16)
    assert [look.trials for look in looks] == [3, 5, 8, 16]
    assert [look.share for look in looks] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("least", "most"), [(2, 2), (2, 3), (3, 4), (3, 7), (5, 20), (8, 9), (2, 500)])
def test_looks_spend_alpha_and_end_with_the_most(least: int, most: int) -> None:
    looks = schedule(least, most)
    numbers = [look.trials for look in looks]
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (least, most)
    assert sum(look.share for look in looks) == pytest.approx(1)


def noise(trials: int, effects: list[float]) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.01, (len(effects), trials)) + np.array(effects)[:, None]


def test_a_claim_stands_and_keeps_its_interval() -> None:
    x = noise(5, [0.3, 0.0])
    x[0, 3:] = -5.0  # what comes later would overturn it
    looks = schedule(3, 16)[:2]
    first = judge_looks([summaries(x[:, :3])], looks[:1], RULE)
    both = judge_looks([summaries(x[:, :3]), summaries(x)], looks, RULE)
    assert first.verdict[0] == both.verdict[0] == "helps"
    assert (both.low[0], both.high[0], both.p_adjusted[0]) == (first.low[0], first.high[0], first.p_adjusted[0])
    np.testing.assert_array_equal(both.verdict != "undecided", both.p_adjusted <= 0.05)


def test_a_standing_claim_counts_in_the_family_as_made() -> None:
    x = noise(8, [0.3, 0.0])
    later = judge(*summaries(x), RULE, standing=np.array([True, False]))
    assert later.verdict[0] == "undecided"
    assert later.level.tolist()[1] == 0.05  # Holm's second step of two
    alone = judge(*summaries(x[1:]), RULE)
    assert later.p_adjusted[1] == alone.p_adjusted[0]


def test_one_look_is_the_procedure() -> None:
    x = noise(8, [0.1, 0.05, 0.0])
    one = judge_looks([summaries(x)], [Look(8, 1.0)], RULE)
    other = judge(*summaries(x), RULE)
    np.testing.assert_array_equal(one.verdict, other.verdict)
    np.testing.assert_array_equal(one.low, other.low)


def test_trials_below_a_number() -> None:
    trials = Trials(np.array([1.0, 2.0, 9.0, 5.0]), np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]))
    count, mean, deviation = trials.summary(2, 2)
    assert count.tolist() == [2, 1]
    assert mean.tolist() == [1.5, 5.0]
    assert deviation[0] == pytest.approx(np.sqrt(0.5))
    assert np.isnan(deviation[1])


def test_settings_go_on_until_all_their_arms_are_settled() -> None:
    looks = schedule(3, 16)
    settings, arms = ["a", "a", "b", "b", "c"], ["x", "y", "x", "y", "x"]
    assert next_trials(["a", "b", "c"], looks, []) == {"a": 3, "b": 3, "c": 3}
    x = noise(3, [0.5, 0.5, 0.5, 0.03, 0.03])
    claims = judge_looks([summaries(x)], looks[:1], RULE)
    record = record_look(looks[0], settings, arms, claims, np.array([False] * 4 + [True]))
    assert record.open_settings == ("b",)
    assert ("a", "x", "helps") in record.claims
    assert next_trials(["a", "b", "c"], looks, [record]) == {"b": 5}
    assert next_trials(["a", "b", "c"], looks, [record] * 4) == {}


def test_records_round_trip_and_differences_are_named() -> None:
    record = LookRecord(3, 0.1, (("a", "x", "helps"),), ("b",))
    assert from_json(to_json([record])) == (record,)
    assert differing_looks([record], [record]) == []
    changed = LookRecord(3, 0.1, (), ("a", "b"))
    assert differing_looks([record], [changed]) == ["look 1 (after 3 trials): x in a is 'helps' only as stored"]
    for text in ("[]", '{"schema_version": 9}', '{"schema_version": 1, "looks": [{}]}'):
        with pytest.raises(ValueError, match="not a record of looks"):
            from_json(text)
