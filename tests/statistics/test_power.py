"""Chances, detectable effects and trials needed, against SciPy's noncentral t and against the rule that judges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from raybench.statistics.claims import Rule, judge
from raybench.statistics.power import chances, detectable_effect, prior_degrees, trials_needed
from tests.analysis.simulated import summaries

MARGIN = float(np.log(1.03))
ALPHA = 0.05


@pytest.mark.parametrize("trials", [2, 3, 8, 20])
@pytest.mark.parametrize("level", [0.05, 0.05 / 40])
def test_the_chance_of_helps_is_that_of_the_noncentral_t(trials: int, level: float) -> None:
    deviation = 0.02
    for effect in (MARGIN, 0.06, 0.2):
        shift = (effect - MARGIN) * np.sqrt(trials) / deviation
        expected = stats.nct.sf(stats.t.isf(level / 2, trials - 1), trials - 1, shift)
        found = chances(trials, deviation, margin=MARGIN, level=level, effect=effect)
        assert found.helps == pytest.approx(expected, rel=0.02, abs=1e-6)


@pytest.mark.parametrize(("trials", "number"), [(3, 1), (8, 1), (5, 27)])
def test_the_chances_are_those_of_the_rule(trials: int, number: int) -> None:
    """Own variances, one comparison of several at a time is looked at at Holm's first level."""
    random = np.random.default_rng(1)
    deviation, effect = 0.012, 0.01
    x = random.normal(effect, deviation, (20_000, 1, trials))
    found = judge(*summaries(x), Rule(MARGIN, ALPHA / number, "holm", "own")).verdict
    expected = chances(trials, deviation, margin=MARGIN, level=ALPHA / number, effect=effect)
    assert np.mean(found == "no effect") == pytest.approx(expected.no_effect, abs=0.012)
    assert np.mean(found == "helps") == pytest.approx(expected.helps, abs=0.005)


@pytest.mark.parametrize("number", [1, 27])
@pytest.mark.parametrize("trials", [3, 5, 8])
def test_what_is_called_detectable_is_detected_by_the_sweep(trials: int, number: int) -> None:
    """One comparison has the effect, the others none, and all scatter alike, which helps: at least 80 %."""
    deviation, rule = 0.02, Rule(MARGIN, ALPHA)
    lent = prior_degrees(number, rule.variance)
    effect = np.log(detectable_effect(trials, deviation, margin=MARGIN, level=ALPHA / number, lent=lent))
    x = np.random.default_rng(2).normal(0, deviation, (4000, number, trials))
    x[:, 0] += effect
    share = np.mean(judge(*summaries(x), rule).verdict[:, 0] == "helps")
    assert share > 0.78
    if number == 1:
        assert share < 0.83


def test_the_detectable_effect_of_nothing() -> None:
    assert detectable_effect(1, 0.02, margin=MARGIN, level=ALPHA) == float("inf")
    assert detectable_effect(5, 0.0, margin=MARGIN, level=ALPHA) == pytest.approx(1.03)
    more = [detectable_effect(n, 0.02, margin=MARGIN, level=ALPHA / 27) for n in (3, 5, 8, 20)]
    assert more == sorted(more, reverse=True)
    assert more[0] > 1.2


@pytest.mark.parametrize("pilot", [3, 6])
def test_trials_needed_are_fair_after_a_pilot(pilot: int) -> None:
    """Sweeps of 30 comparisons: those undecided after the pilot go on to the number they were told, and are judged.

    To be undecided is bad luck, which what is told cannot know: somewhat fewer than 80 % are settled.
    """
    random, rule = np.random.default_rng(3), Rule(MARGIN, ALPHA)
    settled = []
    for _ in range(60):
        truth = random.normal(0, 0.12, 30)
        scatter = 0.03 * np.exp(random.normal(0, 0.3, 30))
        x = random.normal(truth[:, None], scatter[:, None], (30, pilot))
        count, mean, deviation = summaries(x)
        found = judge(count, mean, deviation, rule)
        needed = trials_needed(count, mean, found.deviation, found.degrees, margin=MARGIN, level=found.level)
        assert (needed[found.verdict == "undecided"] > pilot).all()
        for k in np.flatnonzero(found.verdict == "undecided")[:8]:
            y = np.r_[x[k], random.normal(truth[k], scatter[k], needed[k] - pilot)]
            alone = Rule(MARGIN, float(found.level[k]), "holm", "own")
            settled.append(judge([len(y)], [y.mean()], [y.std(ddof=1)], alone).verdict[0] != "undecided")
    assert 0.68 < np.mean(settled) < 0.88


def test_trials_needed_is_unknown_where_nothing_is_known() -> None:
    needed = trials_needed([1, 0, 5], [0.0, np.nan, 0.0], [np.nan, np.nan, 0.01], [0, 0, 4], margin=MARGIN, level=ALPHA)
    assert needed.tolist()[:2] == [0, 0]
    assert needed[2] > 5
