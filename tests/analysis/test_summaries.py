"""An arm over its settings: every interval covers what it names, also where settings share a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raybench.analysis import analyse
from raybench.analysis.results import ArmSummary
from raybench.analysis.summaries import average_models, fixed_set_interval
from tests.analysis.ledgers import paired, write

SWEEPS = 2000
ERROR = 4 * np.sqrt(0.05 * 0.95 / SWEEPS)
FAMILIES = [f"f{i // 3}" for i in range(9)]


def simulate(random: np.random.Generator, between: float, within: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true log effects of 9 models in 3 families, of 9 x 3 settings; family effects, the last of a new one)."""
    family = random.normal(0, between, 4)
    model = np.repeat(family[:3], 3) + random.normal(0, within, 9)
    return model, np.repeat(model, 3) + random.normal(0, 0.01, 27), family


def test_the_mean_of_models_like_these() -> None:
    random = np.random.default_rng(1)
    held = {"model": 0, "setting": 0}
    for _ in range(SWEEPS):
        _, settings, _ = simulate(random, 0.0, 0.08)
        logs = settings + random.normal(0, 0.01, 27)
        names = np.repeat(np.arange(9), 3).astype(str).tolist()
        low, high = average_models(logs, names, ["one"] * 27).interval(0.05)
        held["model"] += low < 0 < high
        low, high = average_models(logs, [str(i) for i in range(27)], ["one"] * 27).interval(0.05)
        held["setting"] += low < 0 < high
    assert abs(held["model"] / SWEEPS - 0.95) < ERROR
    assert held["setting"] / SWEEPS < 0.85  # settings of a model taken for independent


@pytest.mark.parametrize("between", [0.0, 0.05, 0.2])
def test_predictions_for_a_named_family_and_for_a_new_one(between: float) -> None:
    random = np.random.default_rng(2)
    named = new = 0
    for _ in range(SWEEPS):
        _, settings, family = simulate(random, between, 0.06)
        names = np.repeat(np.arange(9), 3).astype(str).tolist()
        models = average_models(settings + random.normal(0, 0.01, 27), names, list(np.repeat(FAMILIES, 3)))

        def another(effect: float) -> float:
            return float(effect + random.normal(0, 0.06) + random.normal(0, 0.0141, 3).mean())

        _, low, high = models.predict("f1", 0.05)
        named += low < another(family[1]) < high
        _, low, high = models.predict_new_family(0.05)
        new += low < another(family[3]) < high
    assert abs(named / SWEEPS - 0.95) < ERROR
    assert new / SWEEPS > 0.95 - ERROR  # above it where families hardly differ, as 3 of them cannot show that


def test_these_settings() -> None:
    random = np.random.default_rng(3)
    held, k, n = 0, 27, 3
    for _ in range(SWEEPS):
        truth = random.normal(-0.2, 0.1, k)
        d = truth[:, None] + random.normal(0, 1, (k, n)) * 0.02 * np.exp(random.normal(0, 0.6, (k, 1)))
        low, high = fixed_set_interval(d.mean(axis=1), d.std(axis=1, ddof=1), np.full(k, float(n)), 0.05)
        held += low < truth.mean() < high
    assert abs(held / SWEEPS - 0.95) < ERROR


def only_arm(tmp_path: Path, ratios: list[list[float]], **question: object) -> ArmSummary:
    rows = [
        row
        for number, several in enumerate(ratios)
        for row in paired(several, setting_id=f"s{number}", model=f"m{number // 2}", family=f"f{number // 4}")
    ]
    return analyse([write(tmp_path / "legs.parquet", rows)], **question).arms[0]  # type: ignore[arg-type]


def test_an_arm_is_judged_where_its_settings_cannot_be(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    noisy = np.exp(np.log(0.8) + random.normal(0, 0.08, (16, 3))).tolist()
    arm = only_arm(tmp_path, noisy)
    assert arm.tally.undecided > 8
    assert arm.verdict == "hurts"
    assert arm.verdict_interval.high is not None
    assert arm.verdict_interval.high < 1 / 1.03
    assert (arm.verdict_interval.low, arm.verdict_interval.high) == (arm.fixed.low, arm.fixed.high)
    assert arm.population.n == 8
    assert [one.family for one in arm.predictions] == ["f0", "f1", "f2", "f3"]
    assert only_arm(tmp_path, noisy, margin=0.3).verdict == "no effect"
    assert only_arm(tmp_path, noisy, margin=0.25).verdict == "undecided"


def test_one_setting_is_its_arm(tmp_path: Path) -> None:
    found = analyse([write(tmp_path / "legs.parquet", paired([1.1, 1.11, 1.12]))])
    assert found.arms[0].verdict == found.comparisons[0].verdict == "helps"
    assert found.arms[0].verdict_interval == found.comparisons[0].judgement.interval


def test_a_setting_with_one_trial_leaves_the_arm_undecided(tmp_path: Path) -> None:
    arm = only_arm(tmp_path, [[0.8, 0.81, 0.8], [0.8]])
    assert arm.verdict == "undecided"
    assert arm.verdict_interval.low is None
