"""The statistics against SciPy, statsmodels and simulated truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from raybench.statistics.inference import p_against, sign_flip_p, sign_flip_ps, t_interval

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


@pytest.mark.parametrize("trials", [2, 3, 5, 10])
def test_the_interval_covers(trials: int) -> None:
    low, high = t_interval(*summary(normal((20_000, trials), 0.1)), 0.05)
    assert within_monte_carlo(float(np.mean((low < 0.1) & (high > 0.1))), 0.95, 20_000)


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
