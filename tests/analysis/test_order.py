"""Carry-over from leg to leg and dependence from trial to trial are seen where they are, and not where they are not."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import Analysis, analyse
from raybench.analysis.legs import read_legs
from raybench.analysis.order import carry_over, preceding_legs
from raybench.declare.plan import leg_order
from tests.analysis.ledgers import leg, texts, write

ENGINES = {"ddp": "torch", "fsdp": "fsdp", "zero1": "deepspeed", "zero2": "deepspeed"}
START = datetime(2026, 1, 1, tzinfo=UTC)


def simulate(
    arms: list[str],
    random: np.random.Generator,
    *,
    carry: float = 1.0,
    num_settings: int = 20,
    num_trials: int = 8,
    rounds: int = 2,
    lag: float = 0.0,
    noise: float = 0.02,
) -> list[dict[str, Any]]:
    """A sweep whose legs take `carry` times as long right after a leg of DeepSpeed's.

    Its trials' log ratios have correlation `lag` from one to the next. Machines drift within trials as well.
    """
    rows, clock = [], START
    shifts = dict.fromkeys(itertools.product(range(num_settings), arms), 0.0)
    for trial, setting in itertools.product(range(num_trials), range(num_settings)):
        drift, before = random.normal(0, 0.01), ""
        for arm in arms[1:]:
            shifts[setting, arm] = lag * shifts[setting, arm] + random.normal(0, 0.02 * np.sqrt(1 - lag**2))
        for position, (arm, round_) in enumerate(leg_order(arms, rounds, 0, f"s{setting}", trial)):
            level = 0.2 * setting + 0.1 * arms.index(arm) + drift * position + shifts[setting, arm]
            level += np.log(carry) * (before == "deepspeed")
            steps = np.exp(level + random.normal(0, noise) + random.normal(0, noise, 4))
            clock += timedelta(seconds=20)
            rows.append(
                leg(arm, trial, round_, steps.tolist(), setting_id=f"s{setting}", engine=ENGINES[arm],
                    position=position, process_group=f"s{setting}-{trial}", started_at=clock)
            )  # fmt: skip
            before = ENGINES[arm]
    return rows


def judged(folder: Path, rows: list[dict[str, Any]]) -> Analysis:
    return analyse([write(folder / "legs.parquet", rows)])


@pytest.mark.parametrize("arms", [["ddp", "zero1"], ["ddp", "zero1", "zero2"], ["ddp", "fsdp", "zero1", "zero2"]])
def test_a_carry_over_of_ten_percent_is_seen(tmp_path: Path, arms: list[str]) -> None:
    found = judged(tmp_path, simulate(arms, np.random.default_rng(3), carry=1.1))
    one = next(one for one in found.carry_over if one.engine == "deepspeed")
    assert one.p_adjusted is not None
    assert one.p_adjusted < 1e-3
    assert one.effect.low is not None
    assert one.effect.high is not None
    assert one.effect.low < 1.1 < one.effect.high
    assert one.detectable < 1.05
    assert any(caveat.startswith("carry-over: ") and "of deepspeed" in caveat for caveat in texts(found))


def test_one_round_shows_it_too(tmp_path: Path) -> None:
    found = judged(tmp_path, simulate(["ddp", "fsdp", "zero1", "zero2"], np.random.default_rng(4), carry=1.1, rounds=1))
    one = next(one for one in found.carry_over if one.engine == "deepspeed")
    assert (one.p_adjusted or 0.0) < 1e-3
    assert one.effect.value == pytest.approx(1.1, abs=0.02)


def test_without_a_carry_over_the_level_holds_and_the_interval_covers(tmp_path: Path) -> None:
    random, false, covered, sweeps = np.random.default_rng(5), 0, 0, 60
    for sweep in range(sweeps):
        rows = simulate(["ddp", "zero1", "zero2"], random, num_settings=4)
        effects = carry_over(read_legs([write(tmp_path / str(sweep) / "legs.parquet", rows)]), 0.05)
        false += any((one.p_adjusted or 1.0) < 0.05 for one in effects)
        covered += sum((one.effect.low or 0.0) < 1 < (one.effect.high or 0.0) for one in effects)
        assert len(effects) == 2
    assert false <= 9  # of 60 at 5 %: more happens once in 1,000 times
    assert covered >= 105  # of 120


def test_the_leg_before_is_of_the_same_processes() -> None:
    rows = simulate(["ddp", "zero1"], np.random.default_rng(0), num_settings=1, num_trials=2, rounds=1)
    for row in rows:
        row["process_group"] = "one"
    assert [names(rows, apart=False), names(rows, apart=True)] == [3, 2]


def names(rows: list[dict[str, Any]], *, apart: bool) -> int:
    """How many legs have one before them, where both trials share their processes or each has its own."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        changed = [row | ({"process_group": row["trial_id"]} if apart else {}) for row in rows]
        return int((preceding_legs(read_legs([write(Path(folder) / "legs.parquet", changed)])) >= 0).sum())


@pytest.mark.parametrize(("lag", "seen"), [(0.6, True), (0.0, False)])
def test_trials_that_depend_on_each_other_are_told(tmp_path: Path, lag: float, seen: bool) -> None:
    found = judged(tmp_path, simulate(["ddp", "zero1", "zero2"], np.random.default_rng(6), lag=lag, noise=0.005))
    assert found.dependence is not None
    assert (found.dependence.n_settings, found.dependence.n_trials) == (20, 160)
    assert (found.dependence.p_value < 0.01) == seen
    assert any("alike" in caveat for caveat in texts(found)) == seen


def test_dependence_is_found_at_its_level_where_there_is_none(tmp_path: Path) -> None:
    random, low = np.random.default_rng(8), 0
    for sweep in range(40):
        rows = simulate(["ddp", "zero1", "zero2"], random, num_settings=3, num_trials=5, rounds=1)
        found = judged(tmp_path / str(sweep), rows).dependence
        low += found is not None and found.p_value < 0.05
    assert low <= 7  # of 40 at 5 %: more happens once in 1,000 times
