"""Moderated variances against an independent implementation of limma's formulas, and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from raybench.statistics.moderation import (
    LEAST_COMPARISONS,
    LEAST_OF_A_GROUP,
    fit_prior,
    moderate,
    trigamma_inverse,
)


def drawn(random: np.random.Generator, shape: tuple[int, ...], d0: float, s0: float, df: int) -> np.ndarray:
    """Sample variances of the model: sigma^2 ~ d0 s0^2 / chi2(d0), s^2 ~ sigma^2 chi2(df) / df."""
    sigma = d0 * s0**2 / random.chisquare(d0, shape)
    return np.asarray(sigma * random.chisquare(df, shape) / df)


def by_hand(variances: list[float], degrees: list[float]) -> tuple[float, float]:
    """(s0^2, d0) by Smyth 2004, 6.2, written out: the root of trigamma is found by bracketing."""
    e = [math.log(v) - special.digamma(d / 2) + math.log(d / 2) for v, d in zip(variances, degrees, strict=True)]
    mean = sum(e) / len(e)
    v = sum((x - mean) ** 2 for x in e) / (len(e) - 1) - sum(special.polygamma(1, d / 2) for d in degrees) / len(e)
    if v <= 0:
        return math.exp(mean), math.inf
    d0 = 2 * optimize.brentq(lambda x: special.polygamma(1, x) - v, 1e-4, 1e7)
    return math.exp(mean + special.digamma(d0 / 2) - math.log(d0 / 2)), d0


def test_trigamma_inverse() -> None:
    x = np.geomspace(1e-3, 1e5, 200)
    np.testing.assert_allclose(trigamma_inverse(special.polygamma(1, x)), x, rtol=1e-6)


@pytest.mark.parametrize("d0", [1.5, 4.0, 30.0])
def test_without_caution_the_prior_is_limmas(d0: float) -> None:
    random = np.random.default_rng(5)
    degrees = np.array([2, 2, 3, 4, 7] * 6)
    for _ in range(20):
        variances = np.array([drawn(random, (), d0, 0.02, int(d)) for d in degrees])
        variance, found = fit_prior(variances, degrees, caution=0.0)
        expected_variance, expected = by_hand(variances.tolist(), degrees.tolist())
        assert variance == pytest.approx(expected_variance, rel=1e-6)
        assert (math.isinf(found) and math.isinf(expected)) or found == pytest.approx(expected, rel=1e-5)


def test_equal_variances_scatter_no_more_than_samples_do() -> None:
    variance, d0 = fit_prior(np.full(30, 0.01), np.full(30, 4), caution=0.0)
    assert math.isinf(d0)
    # A degree of freedom below limma's mean of logs: log s^2 is biased, which digamma undoes.
    assert variance == pytest.approx(0.01 * math.exp(math.log(2) - special.digamma(2)))


def test_the_prior_is_found_again() -> None:
    variances = drawn(np.random.default_rng(1), (200, 400), 5.0, 0.02, 2)
    variance, d0 = fit_prior(variances, np.full(400, 2), caution=0.0)
    assert np.median(d0) == pytest.approx(5.0, rel=0.1)
    assert np.median(np.sqrt(variance)) == pytest.approx(0.02, rel=0.03)
    careful = fit_prior(variances, np.full(400, 2))[1]
    assert np.all(careful < d0)


def test_the_moderated_t_has_the_degrees_it_says() -> None:
    """Under the model, mean / moderated error is t with d0 + df degrees: its p values are uniform."""
    random = np.random.default_rng(2)
    sigma = np.sqrt(4 * 0.02**2 / random.chisquare(4, (100, 500)))
    x = random.normal(0, 1, (100, 500, 3)) * sigma[..., None]
    deviation, degrees = moderate(np.full((100, 500), 3), x.std(axis=-1, ddof=1))
    t = x.mean(axis=-1) / (deviation / np.sqrt(3))
    p = 2 * stats.t.sf(np.abs(t), degrees)
    for level in (0.001, 0.01, 0.05, 0.5):
        assert np.mean(p < level) == pytest.approx(level, rel=0.25)
        assert np.mean(p < level) < level * 1.1


def test_few_comparisons_keep_their_own() -> None:
    few = LEAST_COMPARISONS - 1
    s = np.random.default_rng(3).uniform(0.01, 0.05, LEAST_COMPARISONS)
    deviation, degrees = moderate(np.full(few, 3), s[:few])
    np.testing.assert_array_equal(deviation, s[:few])
    assert (degrees == 2).all()
    more, degrees = moderate(np.full(few + 1, 3), s)
    assert np.ptp(np.log(more)) < np.ptp(np.log(s))
    assert (degrees > 2).all()


def test_one_trial_has_no_deviation_and_does_not_count() -> None:
    s = np.r_[np.nan, np.random.default_rng(3).uniform(0.01, 0.05, 30)]
    count = np.r_[1, np.full(30, 3)]
    deviation, degrees = moderate(count, s)
    assert np.isnan(deviation[0])
    assert degrees[0] == 0
    np.testing.assert_allclose(deviation[1:], moderate(count[1:], s[1:])[0])


def test_arms_and_machines_of_their_own_noise() -> None:
    """A large group learns from itself; a small one from its machine; machines never from each other."""
    random = np.random.default_rng(4)
    size = LEAST_OF_A_GROUP
    quiet, loud = drawn(random, (size,), 8, 0.005, 2) ** 0.5, drawn(random, (size,), 8, 0.1, 2) ** 0.5
    arm, machine = np.repeat([0, 1, 2], [size, size, 3]), np.zeros(2 * size + 3, dtype=np.int64)
    s = np.r_[quiet, loud, [0.02, 0.02, 0.02]]
    count = np.full(len(s), 3)
    found, _ = moderate(count, s, arm, machine)
    np.testing.assert_allclose(found[:size], moderate(count[:size], quiet)[0])
    np.testing.assert_allclose(found[size : 2 * size], moderate(count[:size], loud)[0])
    whole, _ = moderate(count, s)
    np.testing.assert_allclose(found[2 * size :], whole[2 * size :])
    apart, _ = moderate(count, s, arm, np.arange(len(s)))
    np.testing.assert_allclose(apart, s)


def test_rows_are_sweeps_of_their_own() -> None:
    s = np.random.default_rng(6).uniform(0.01, 0.05, (4, 30))
    together, degrees = moderate(np.full((4, 30), 3), s)
    for row in range(4):
        alone, own = moderate(np.full(30, 3), s[row])
        np.testing.assert_allclose(together[row], alone)
        np.testing.assert_allclose(degrees[row], own)


def test_identical_trials_take_the_noise_of_the_others() -> None:
    s = np.r_[0.0, np.random.default_rng(3).uniform(0.01, 0.05, 30)]
    deviation, _ = moderate(np.full(31, 3), s)
    assert deviation[0] > 0.005
    assert not moderate(np.full(31, 3), np.zeros(31))[0].any()
