"""The statistics against SciPy, statsmodels and simulated truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raybench.analysis.inference import (
    holm,
    holm_levels,
    judge,
    p_against,
    sign_flip_p,
    sign_flip_ps,
    t_interval,
)
from raybench.analysis.planning import detectable_effect, stein_interval, stein_trials, trials_needed

MARGIN = float(np.log(1.03))
ALPHA = 0.05


def summary(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full(x.shape[:-1], x.shape[-1]), x.mean(axis=-1), x.std(axis=-1, ddof=1)


def normal(shape: tuple[int, ...], mean: float = 0.0, deviation: float = 0.02, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, shape)


def within_monte_carlo(rate: float, nominal: float, samples: int) -> bool:
    return abs(rate - nominal) < 4 * np.sqrt(nominal * (1 - nominal) / samples)


@pytest.mark.parametrize("trials", [2, 3, 5, 12, 40])
def test_interval_and_p_are_scipys(trials: int) -> None:
    x = normal((50, trials), 0.01)
    n, mean, deviation = summary(x)
    found = stats.ttest_1samp(x, 0.0, axis=1)
    interval = found.confidence_interval(0.95)
    low, high = t_interval(n, mean, deviation, 0.05)
    np.testing.assert_allclose(p_against(n, mean, deviation), found.pvalue, rtol=1e-10)
    np.testing.assert_allclose(low, interval.low, rtol=1e-10)
    np.testing.assert_allclose(high, interval.high, rtol=1e-10)


@pytest.mark.parametrize("trials", [3, 8])
def test_no_effect_is_statsmodels_tost(trials: int) -> None:
    from statsmodels.stats.weightstats import ttost_paired

    base, arm = normal((200, trials), 0.0, 0.01), normal((200, trials), 0.005, 0.015, seed=2)
    n, mean, deviation = summary(base - arm)
    ours = judge(n, mean, deviation, margin=MARGIN, alpha=ALPHA).verdict == "no effect"
    theirs = [ttost_paired(b, a, -MARGIN, MARGIN)[0] < ALPHA for b, a in zip(base, arm, strict=True)]
    assert ours.tolist() == theirs
    assert 0 < ours.sum() < 200


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=30))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.array(p_values)
    tests = ~np.isnan(p)
    adjusted = holm(p)
    assert np.isnan(adjusted[~tests]).all()
    if tests.any():
        np.testing.assert_allclose(adjusted[tests], multipletests(p[tests], method="holm")[1], rtol=1e-12)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=30))
def test_holm_levels_reject_what_the_adjusted_p_rejects(p_values: list[float]) -> None:
    p = np.array(p_values)
    adjusted = holm(p)
    clear = np.abs(adjusted - ALPHA) > 1e-12
    assert ((p < holm_levels(p, ALPHA)) == (adjusted < ALPHA))[clear].all()


def test_alone_a_comparison_is_judged_by_its_plain_interval() -> None:
    x = normal((3000, 5), 0.03, 0.015)
    for count, mean, deviation in zip(*summary(x), strict=True):
        found = judge([count], [mean], [deviation], margin=MARGIN, alpha=ALPHA)
        expected = "undecided"
        if found.low[0] > MARGIN:
            expected = "helps"
        elif found.high[0] < -MARGIN:
            expected = "hurts"
        else:
            low, high = t_interval(count, mean, deviation, 2 * ALPHA)
            if low > -MARGIN and high < MARGIN:
                expected = "no effect"
        assert found.verdict[0] == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(-0.1, 0.1), st.floats(1e-4, 0.1))
def test_the_interval_shown_is_the_one_that_the_verdict_came_from(
    seed: int, trials: int, effect: float, deviation: float
) -> None:
    found = judge(*summary(normal((20, trials), effect, deviation, seed)), margin=MARGIN, alpha=ALPHA)
    for verdict, low, high in zip(found.verdict, found.verdict_low, found.verdict_high, strict=True):
        assert (verdict == "helps") == (low > MARGIN)
        assert (verdict == "hurts") == (high < -MARGIN)
        if verdict == "no effect":
            assert low > -MARGIN
            assert high < MARGIN
    assert not np.any((found.verdict == "helps") & (found.p_adjusted > ALPHA))


@pytest.mark.parametrize("effect", [0.0, MARGIN, -MARGIN])
def test_the_chance_of_one_false_claim_in_a_sweep_stays_at_alpha(effect: float) -> None:
    sweeps = 2000
    x = normal((sweeps, 20, 5), effect)
    false = 0
    for sweep in x:
        verdicts = judge(*summary(sweep), margin=MARGIN, alpha=ALPHA).verdict
        false += bool(np.isin(verdicts, ["helps", "hurts"]).any())
    assert false / sweeps < ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / sweeps)
    if effect:  # at the margin each single claim errs on one side only: alpha / 2, and the whole is close to it
        assert false / sweeps > ALPHA / 4


def test_no_effect_is_claimed_at_the_margin_at_most_with_alpha() -> None:
    found = judge(*summary(normal((20_000, 5), MARGIN, 0.01)), margin=MARGIN, alpha=ALPHA)
    assert np.mean(found.verdict == "no effect") < ALPHA + 4 * np.sqrt(ALPHA / 20_000)


@pytest.mark.parametrize("trials", [2, 3, 5, 10])
def test_the_interval_covers(trials: int) -> None:
    low, high = t_interval(*summary(normal((20_000, trials), 0.1)), 0.05)
    assert within_monte_carlo(float(np.mean((low < 0.1) & (high > 0.1))), 0.95, 20_000)


def test_power_is_that_of_the_noncentral_t() -> None:
    n, effect, deviation = 6, 0.06, 0.02
    found = [
        judge([n], [m], [s], margin=MARGIN, alpha=ALPHA).verdict[0] == "helps"
        for _, m, s in zip(*summary(normal((4000, n), effect, deviation)), strict=True)
    ]
    shift = (effect - MARGIN) / (deviation / np.sqrt(n))
    expected = stats.nct.sf(stats.t.ppf(1 - ALPHA / 2, n - 1), n - 1, shift)
    assert within_monte_carlo(float(np.mean(found)), float(expected), 4000)


@pytest.mark.parametrize("n", range(1, 9))
def test_sign_flip_is_the_enumeration(n: int) -> None:
    for seed in range(20):
        d = normal((n,), 0.01, 0.02, seed)
        sums = [abs(float(np.dot(signs, d))) for signs in itertools.product([1, -1], repeat=n)]
        expected = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
        assert sign_flip_p(d) == pytest.approx(expected)
        assert sign_flip_ps(d, np.array([0]), np.array([n]))[0] == pytest.approx(expected)


def test_sign_flip_of_many_trials_agrees_with_scipy() -> None:
    d = normal((16,), 0.01)
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=2**16).pvalue
    assert sign_flip_p(d) == pytest.approx(expected)
    assert sign_flip_ps(d, np.array([0]), np.array([16]))[0] == pytest.approx(expected)


def test_sign_flip_of_nothing_and_of_ties() -> None:
    assert sign_flip_p(np.array([])) is None
    assert sign_flip_p(np.zeros(4)) == 1.0
    assert sign_flip_p(np.full(5, 0.1)) == 2 / 2**5


def test_one_trial_and_trials_without_spread_give_numbers_not_nan() -> None:
    found = judge([1, 3, 3], [0.1, 0.1, 0.0], [np.nan, 0.0, 0.0], margin=MARGIN, alpha=ALPHA)
    assert found.verdict.tolist() == ["undecided", "helps", "no effect"]
    assert np.isnan(found.low[0])
    assert np.isnan(found.p_value[0])
    assert found.p_value[1:].tolist() == [0.0, 1.0]
    assert found.low[1] == found.high[1] == 0.1


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.06, -0.055])
def test_the_trials_needed_settle_with_the_promised_chance(effect: float) -> None:
    deviation = 0.02
    n = int(trials_needed([3], [effect], [deviation], margin=MARGIN, alpha=ALPHA, level=[ALPHA])[0])
    count, mean, spread = summary(normal((3000, n), effect, deviation))
    settled = [
        judge([c], [m], [s], margin=MARGIN, alpha=ALPHA).verdict[0] for c, m, s in zip(count, mean, spread, strict=True)
    ]
    rate = np.mean(np.array(settled) != "undecided")
    assert 0.72 < rate < 0.93
    assert n > 3


def test_trials_needed_is_unknown_where_no_number_would_do() -> None:
    means, spreads = [0.0, MARGIN, 0.0], [np.nan, 0.01, 0.01]
    needed = trials_needed([1, 5, 5], means, spreads, margin=MARGIN, alpha=ALPHA, level=[ALPHA] * 3)
    assert needed.tolist()[:2] == [0, 0]
    assert needed[2] > 5


def test_the_detectable_effect_is_detected_with_the_promised_chance() -> None:
    n, deviation = 8, 0.02
    effect = np.log(detectable_effect(n, deviation, margin=0.03, alpha=ALPHA))
    low, _ = t_interval(*summary(normal((5000, n), effect, deviation)), ALPHA)
    assert 0.76 < np.mean(low > 0.03) < 0.84
    assert detectable_effect(1, deviation, margin=0.03, alpha=ALPHA) == float("inf")


def test_steins_rule_keeps_its_level_where_repeating_until_significant_does_not() -> None:
    random = np.random.default_rng(3)
    covered, repeated, sweeps = 0, 0, 3000
    for _ in range(sweeps):
        d = random.normal(0, 0.02, 400)
        pilot = float(d[:5].std(ddof=1))
        n = min(stein_trials(5, pilot, 0.02, ALPHA), 400)
        low, high = stein_interval(5, pilot, d[:n], ALPHA)
        covered += low < 0 < high
        counts = np.arange(3, 21)
        means = np.array([d[:k].mean() for k in counts])
        spreads = np.array([d[:k].std(ddof=1) for k in counts])
        repeated += bool((p_against(counts, means, spreads) < ALPHA).any())
    assert covered / sweeps > 0.95 - 4 * np.sqrt(0.05 * 0.95 / sweeps)
    assert repeated / sweeps > 0.12
