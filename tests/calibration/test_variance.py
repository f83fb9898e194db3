"""Variance components, chances and machine time: against simulated truth, by hand, and the verdicts' own rule."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from raybench.calibration.calibration import outlook
from raybench.calibration.times import machine_times
from raybench.calibration.variance import Spread, compare_isolation, one_way, read_rounds, spread
from raybench.ledger.reading import read_ledger
from raybench.statistics.power import detectable_effect
from tests.analysis.ledgers import leg
from tests.analysis.simulation import Truth, simulate_ledger

MARGIN = float(np.log(1.03))


def test_components_of_a_simulated_machine_are_found(tmp_path: Path) -> None:
    truth = Truth(
        {"ddp": 1.0, "ddp_again": 1.0}, num_settings=1, num_trials=600, num_rounds=4, num_steps=20,
        trial_deviation=0.011, leg_deviation=0.013, step_deviation=0.04, block_deviation=0.05,
    )  # fmt: skip
    rows = read_ledger(simulate_ledger(tmp_path / "aa.parquet", truth, seed=3)).to_pylist()
    found = read_rounds(rows, "ddp", "ddp_again").components()
    assert found.step == pytest.approx(0.04, rel=0.02)
    assert found.round == pytest.approx(0.013 * np.sqrt(2), rel=0.06)  # two legs a round
    assert found.trial == pytest.approx(0.011, rel=0.12)
    assert found.level == pytest.approx(0.05, rel=0.1)


def test_a_machine_without_effects_of_trials_shows_none(tmp_path: Path) -> None:
    arms = {"ddp": 1.0, "again": 1.0}
    truth = Truth(arms, num_trials=400, trial_deviation=0.0, leg_deviation=0.0, step_deviation=0.03)
    rows = read_ledger(simulate_ledger(tmp_path / "aa.parquet", truth, seed=4)).to_pylist()
    found = read_rounds(rows, "ddp", "again").components()
    assert found.trial is not None
    assert found.trial < 0.003
    assert found.round is not None
    assert found.round < 0.003  # what the steps leave of a round is nothing
    assert found.step == pytest.approx(0.03, rel=0.03)


def test_one_way_by_hand_and_with_unequal_groups() -> None:
    within, between = one_way(np.array([1.0, 3.0, 7.0, 9.0]), np.array([0, 0, 1, 1]))
    assert within == pytest.approx(2.0)  # (1 + 1 + 1 + 1) / 2
    assert between == pytest.approx((36.0 - 2.0) / 2)
    random = np.random.default_rng(5)
    group = np.repeat(np.arange(9000), np.arange(9000) % 3 + 1)
    values = random.normal(0, 0.5, 9000)[group] + random.normal(0, 1.0, len(group))
    assert one_way(values, group) == (pytest.approx(1.0, rel=0.05), pytest.approx(0.25, rel=0.2))
    assert one_way(np.array([1.0]), np.array([0])) == (None, None)


def test_an_interval_of_a_deviation_holds_the_truth_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(6)
    held = 0
    for _ in range(1000):
        found = spread([random.normal(3, 0.02, 6), random.normal(-1, 0.02, 4)])
        assert found is not None
        assert found.degrees == 8
        held += found.low <= 0.02 <= found.high
    assert 920 <= held <= 975


def test_the_outlook_improves_with_trials_and_adds_up_time() -> None:
    found = outlook(Spread(0.02, 0.01, 0.03, 5), margin=0.03, alpha=0.05, trial_seconds=30.0)
    assert [one.trials for one in found] == [3, 5, 8, 12, 20]
    assert [one.machine_seconds for one in found] == [90.0, 150.0, 240.0, 360.0, 600.0]
    assert all(a.detectable > b.detectable > 1.03 for a, b in itertools.pairwise(found))
    assert found[1].detectable == detectable_effect(5, 0.02, margin=MARGIN, level=0.05)
    assert outlook(Spread(0.02, 0.01, 0.03, 5), margin=0.03, alpha=0.05, trial_seconds=None)[0].machine_seconds is None


def test_isolation_is_compared_at_equal_machine_time() -> None:
    shared, fresh = spread([np.array([-0.01, 0.01, 0.0])]), spread([np.array([-0.02, 0.02, 0.0])])
    assert shared is not None
    assert fresh is not None
    found = compare_isolation(shared, fresh, 30.0, 90.0)
    assert found.variance_ratio == pytest.approx(4 * 3)
    assert found.low < 12 < found.high
    assert found.high / found.variance_ratio == pytest.approx(39.0, rel=1e-3)  # F(2, 2) at 97.5 %


def test_machine_time_is_read_off_the_starts_of_legs() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = []
    for trial in range(3):  # 25 s of starting, then four legs of 2.5 s; after the second a pause of an hour
        for number, (arm, round_) in enumerate([("ddp", 0), ("again", 0), ("again", 1), ("ddp", 1)]):
            pause = 3600 if trial == 2 else 0
            at = start + timedelta(seconds=trial * 35 + pause + 25 + 2.5 * number)
            rows.append(leg(arm, trial, round_, started_at=at, process_group=f"g{trial}", environment={"node": "n1"}))
    times = machine_times(rows)["s0"]
    assert times.leg_seconds == pytest.approx(2.5)
    assert times.trial_seconds == pytest.approx((35 + 3635) / 2)  # of two gaps the median is their mean
    times = machine_times([row for row in rows if row["repeat"] < 2])["s0"]
    assert times.trial_seconds == pytest.approx(35)
    assert times.of_trial(10) == pytest.approx(25 + 10 * 2.5)
    assert machine_times(rows[:1])["s0"].of_trial(4) is None
