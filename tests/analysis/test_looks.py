"""When a sweep is looked at, what stands, which settings go on, and what is stored of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import analyse
from raybench.analysis.stopping import Stopping, check_looks
from raybench.declare.repeats import Look, schedule
from raybench.errors import UserError
from raybench.statistics.claims import Rule, judge
from raybench.statistics.looks import (
    LookRecord,
    Trials,
    differing_looks,
    from_json,
    judge_looks,
    next_trials,
    record_look,
    to_json,
)
from tests.analysis.ledgers import leg, write
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
    assert next_trials(["a", "b", "c"], looks, []) == {"a": 3, "b": 3, "c": 3}
    verdicts = [("a", "x", "helps"), ("a", "y", "no effect"), ("b", "x", "hurts"), ("b", "y", "undecided")]
    record = record_look(looks[0], [*verdicts, ("c", "x", "unlocks"), ("c", "y", "not comparable")])
    assert record.settled == ("a", "c")
    assert record.claims == (("a", "x", "helps"), ("a", "y", "no effect"), ("b", "x", "hurts"))
    assert next_trials(["a", "b", "c", "never ran"], looks, [record]) == {"b": 5, "never ran": 5}
    assert next_trials(["a", "b", "c"], looks, [record] * 4) == {}


def test_records_round_trip_and_differences_are_named() -> None:
    record = LookRecord(3, 0.1, (("a", "x", "helps"),), ("a",))
    assert from_json(to_json([record])) == (record,)
    assert differing_looks([record], [record]) == []
    changed = LookRecord(3, 0.1, (), ("a",))
    assert differing_looks([record], [changed]) == ["look 1 (after 3 trials): x in a is 'helps' only as stored"]
    for text in ("[]", '{"schema_version": 9}', '{"schema_version": 1, "looks": [{}]}'):
        with pytest.raises(ValueError, match="not a record of looks"):
            from_json(text)


SPACE = "repeats: {min: 3, max: 16}\nquestion: {margin: 0.03, alpha: 0.05}\n"
EFFECTS = {"fast": 0.3, "none": 0.0, "near": 0.035, "slow": -0.1}


def run_sweep(folder: Path, most_looks: int = 4) -> dict[str, int]:
    """A sweep without a driver: trials as they are wanted, drawn by setting and repeat. Trials of each setting."""
    folder.mkdir(exist_ok=True)
    (folder / "_space.yaml").write_text(SPACE)
    stopping = Stopping.of(SPACE, folder)
    assert stopping is not None
    trials: dict[str, int] = {}
    for _ in range(most_looks):
        if not (wanted := stopping.wanted(EFFECTS)):
            break
        rows: list[dict[str, Any]] = []
        for setting, number in wanted.items():
            for repeat in range(trials.get(setting, 0), number):
                noise = np.random.default_rng([len(setting), ord(setting[0]), repeat]).normal(0, 0.008)
                seconds = {"ddp": 1.0, "zero1": float(np.exp(-EFFECTS[setting] + noise))}
                rows += [leg(arm, repeat, 0, [took] * 4, setting_id=setting) for arm, took in seconds.items()]
            trials[setting] = number
        write(folder / f"legs-{max(wanted.values())}.parquet", rows)
        stopping.look()
    return trials


def test_a_sweep_stops_where_it_is_settled_and_its_verdicts_are_rebuilt(tmp_path: Path) -> None:
    trials = run_sweep(tmp_path)
    assert trials["fast"] == 3
    assert trials["near"] == 16
    assert 3 <= trials["none"] <= 8
    found = {c.where.setting_id: c for c in analyse([tmp_path]).comparisons}
    assert [found[name].verdict for name in ("fast", "none", "slow")] == ["helps", "no effect", "hurts"]
    for c in found.values():
        assert (c.judgement.p_adjusted <= 0.05) == (c.verdict != "undecided")  # type: ignore[operator]
    assert check_looks(tmp_path) == []


def test_a_sweep_that_was_cut_goes_on_where_the_record_ends(tmp_path: Path) -> None:
    run_sweep(tmp_path / "cut", most_looks=1)
    stopping = Stopping.of(SPACE, tmp_path / "cut")
    assert stopping is not None
    assert "fast" not in stopping.wanted(EFFECTS)
    assert set(stopping.wanted(EFFECTS).values()) == {5}


def test_what_a_settled_setting_had_is_due_until_the_end(tmp_path: Path) -> None:
    """So that legs of it that are missing, or are to be tried again, run."""
    trials = run_sweep(tmp_path / "whole")
    stopping = Stopping.of(SPACE, tmp_path / "whole")
    assert stopping is not None
    assert stopping.wanted(EFFECTS) == {}
    assert stopping.due(EFFECTS) == trials
    run_sweep(tmp_path / "cut", most_looks=1)
    cut = Stopping.of(SPACE, tmp_path / "cut")
    assert cut is not None
    assert cut.due(EFFECTS) == {
        **cut.wanted(EFFECTS),
        **{name: 3 for name in EFFECTS if name not in cut.wanted(EFFECTS)},
    }


def test_repeats_that_look_at_other_times_do_not_go_on_with_a_sweep(tmp_path: Path) -> None:
    """The shares of alpha of both together may be more than one."""
    run_sweep(tmp_path, most_looks=2)
    for repeats in ("{min: 3, max: 4}", "{min: 4, max: 16}", "24"):
        with pytest.raises(UserError, match="looked at after 3, 5 trials"):
            Stopping.of(f"repeats: {repeats}\n", tmp_path)


def test_without_a_look_nothing_is_claimed(tmp_path: Path) -> None:
    run_sweep(tmp_path, most_looks=1)
    (tmp_path / "_looks.json").unlink()
    assert {c.verdict for c in analyse([tmp_path]).comparisons} == {"undecided"}


def test_trials_beyond_the_last_look_wait_for_the_next(tmp_path: Path) -> None:
    run_sweep(tmp_path, most_looks=1)
    before = {c.where.setting_id: c.verdict for c in analyse([tmp_path]).comparisons}
    rows = [
        leg(arm, repeat, 0, [took] * 4, setting_id="near")
        for repeat in range(3, 9)
        for arm, took in (("ddp", 1.0), ("zero1", 0.5))
    ]
    write(tmp_path / "more.parquet", rows)
    assert {c.where.setting_id: c.verdict for c in analyse([tmp_path]).comparisons} == before


def test_a_record_that_the_rows_do_not_give_is_told(tmp_path: Path) -> None:
    run_sweep(tmp_path, most_looks=2)
    path = tmp_path / "_looks.json"
    path.write_text(path.read_text().replace("helps", "hurts", 1))
    assert any("only as stored" in line for line in check_looks(tmp_path))
    path.write_text("{}")
    with pytest.raises(UserError, match="not a record of looks"):
        analyse([tmp_path])


def test_a_fixed_number_has_no_looks(tmp_path: Path) -> None:
    assert Stopping.of("repeats: 8\n", tmp_path) is None
