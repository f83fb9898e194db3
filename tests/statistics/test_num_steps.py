"""How many steps `steps: auto` comes to: the formula, its limits, what it reads of rows, and that it is worth it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from raybench.declare.protocol import StepChoice
from raybench.ledger.reading import read_ledger
from raybench.statistics.num_steps import (
    LEAST,
    MOST,
    MOST_SECONDS,
    PILOT_MOST,
    WITHOUT_PILOT,
    Pilot,
    StepChoices,
    autocorrelation_time,
    choose,
    mean_variance,
    pilot_steps,
)
from tests.conftest import ROOT


def correlated(rho: float, size: int, seed: int = 0) -> Any:
    """Draws of an AR(1) process with variance 1."""
    noise = np.random.default_rng(seed).standard_normal(size)
    values = np.empty(size)
    values[0] = noise[0]
    for at in range(1, size):
        values[at] = rho * values[at - 1] + math.sqrt(1 - rho**2) * noise[at]
    return values


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_autocorrelation_time_is_that_of_the_process(rho: float) -> None:
    truth = (1 + rho) / (1 - rho)
    assert autocorrelation_time(correlated(rho, 20_000)) == pytest.approx(truth, rel=0.2)


def test_steps_that_alternate_or_stand_still_count_as_independent_at_most() -> None:
    assert autocorrelation_time([1.0, 2.0] * 50) == 1.0
    assert autocorrelation_time([1.0] * 50) == 1.0


def test_the_variance_of_a_mean_is_that_of_means() -> None:
    windows = [0.01 * (1 + 0.05 * correlated(0.5, 200, seed)) for seed in range(300)]
    truth = float(np.var(np.log([window.mean() for window in windows])))
    assert np.mean([mean_variance(window) for window in windows]) == pytest.approx(truth, rel=0.2)


def pilot(seconds: float, scatter: float, beside_seconds: float, size: int = 100) -> Pilot:
    """Steps of which every second one is longer: tau is 1, and the deviation (of n - 1) the given share."""
    half = scatter * math.sqrt((size - 1) / size)
    return Pilot(tuple(seconds * (1 + half * (-1) ** at) for at in range(size)), beside_seconds)


def test_the_formula_by_hand() -> None:
    choice = choose(pilot(0.01, 0.2, 0.9), 0.04, 7)
    assert choice.optimum == pytest.approx(math.sqrt((0.9 + 0.1) / 0.01) * 0.2 / 0.04)  # 50
    assert choice.steps == 50
    assert (choice.leg_scatter, choice.leg_scatter_degrees, choice.pilot_steps) == (0.04, 7, 100)


@pytest.mark.parametrize(
    ("seconds", "scatter", "steps"),
    [
        (0.4, 0.01, LEAST),  # long steps that hardly scatter
        (0.002, 0.01, 100),  # a window of LEAST_SECONDS
        (0.0005, 0.01, MOST),
        (0.002, 0.9, MOST),
        (1.0, 0.9, MOST_SECONDS / 1.0),
        (5.0, 0.9, LEAST),  # whatever they take
    ],
)
def test_its_limits(seconds: float, scatter: float, steps: int) -> None:
    assert choose(pilot(seconds, scatter, 1.0), 0.02).steps == steps


def test_as_many_steps_as_cost_the_least_time() -> None:
    """The variance that a given time buys is least at the chosen number, over legs drawn with known scatter."""
    step, scatter, leg_scatter, beside = 0.02, 0.3, 0.03, 1.9

    def price(steps: int) -> float:
        draws = np.random.default_rng(steps).standard_normal((4000, 2))
        logs = leg_scatter * draws[:, 0] + scatter / math.sqrt(steps) * draws[:, 1]
        return float(np.var(logs)) * (beside + 0.1 + steps * step)

    chosen = choose(pilot(step, scatter, beside), leg_scatter).steps
    assert chosen == pytest.approx(100, abs=2)
    assert price(chosen) < min(price(10), price(25), price(400), price(1000))
    assert price(chosen) == pytest.approx(price(chosen // 2), rel=0.25)  # and the price is flat around it


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, PILOT_MOST), (0.002, PILOT_MOST), (0.05, 20), (3.0, LEAST)])
def test_a_pilot_takes_a_second_or_ten_steps(seconds: float, steps: int) -> None:
    assert pilot_steps(seconds) == steps


def row(trial: str, mean: float, *, setting: str = "s", **changes: Any) -> dict[str, Any]:
    steps = [9.0, *pilot(mean, 0.01, 0.0, 50).step_seconds]
    return {
        "setting_id": setting, "trial_id": trial, "protocol": json.dumps({"steps": "auto"}), "profiled": False,
        "steps_choice": None, "is_baseline": True, "status": "ok", "failure_message": None, "step_seconds": steps,
        "warmup_steps": 1, **changes,
    }  # fmt: skip


def test_the_scatter_of_legs_is_learned_from_the_baseline_alone() -> None:
    choices = StepChoices()
    assert choices.leg_scatter() == (0.018, 0)
    draws = np.random.default_rng(1).standard_normal((100, 2))
    for trial, pair in enumerate(draws):
        for value in pair:
            choices.note(row(f"trial {trial}", 0.01 * math.exp(0.06 * value + trial)))  # trials of any level
    scatter, degrees = choices.leg_scatter()
    assert (scatter, degrees) == (pytest.approx(0.06, rel=0.15), 100)
    for changes in ({"is_baseline": False}, {"profiled": True}, {"protocol": json.dumps({"steps": 30})}):
        choices.note(row("trial 0", 77.0, **changes))
    assert choices.leg_scatter() == (scatter, degrees)


@pytest.mark.parametrize(("name", "scatter"), [("paper/h200", 0.06), ("paper/small", 0.12), ("zero/small", 0.09)])
def test_the_scatter_of_the_ledgers_that_ship(name: str, scatter: float) -> None:
    choices = StepChoices()
    columns = [column for column in StepChoices.COLUMNS if column != "protocol"]
    for ledger_row in read_ledger(ROOT / "results" / name, columns).to_pylist():
        choices.note({**ledger_row, "protocol": json.dumps({"steps": "auto"})})
    assert choices.leg_scatter()[0] == pytest.approx(scatter, abs=0.006)


def test_the_first_choice_counts_and_is_read_from_the_ledger_alone() -> None:
    choices = StepChoices()
    assert choices.of("s") is None
    first = choices.of("s", pilot(0.01, 0.2, 0.9))
    assert first is not None
    assert choices.of("s", pilot(0.5, 0.01, 0.9)) == first
    later = StepChoices()
    later.note(row("t", 0.01, is_baseline=False, steps_choice=json.dumps(asdict(first))))
    assert later.of("s") == first


def test_a_baseline_that_died_is_not_tried_again_and_yields_to_a_choice() -> None:
    choices = StepChoices()
    dead = {"status": "failed", "failure_message": "killed", "step_seconds": None, "warmup_steps": None}
    choices.note(row("t", 1.0, **dead))
    fallback = choices.of("s", pilot(0.01, 0.2, 0.9))
    assert fallback is not None
    assert (fallback.steps, fallback.problem) == (WITHOUT_PILOT, "killed")
    choices.note(row("u", 0.01, steps_choice=json.dumps({"steps": 44})))
    choices.note(row("t", 1.0, **dead))
    assert choices.of("s") == StepChoice(44)
