"""Claims over whole sweeps, against simulated truth: at most alpha of sweeps (or of claims) are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.declare.repeats import schedule
from raybench.statistics.claims import Claims, Rule, judge
from raybench.statistics.looks import judge_looks
from raybench.statistics.multiplicity import Multiplicity, adjust, levels
from tests.analysis.simulated import NOISES, normal, stalls, summaries

MARGIN = float(np.log(1.03))
ALPHA = 0.05
SWEEPS = 1000
ARM = np.arange(40) % 2  # 20 settings x 2 arms
HOLM = Rule(MARGIN, ALPHA)
FDR = Rule(MARGIN, ALPHA, "fdr")
MOST = ALPHA + 2.6 * np.sqrt(ALPHA * (1 - ALPHA) / SWEEPS)  # Monte Carlo error of a rate of alpha, one-sided 0.5 %


def wrong(found: Claims, effect: np.ndarray) -> np.ndarray:
    """Which verdicts are wrong; at the margin all three are."""
    truth = np.broadcast_to(effect, found.verdict.shape)
    helps, hurts = truth > MARGIN + 1e-12, truth < -MARGIN - 1e-12
    within = np.abs(truth) < MARGIN - 1e-12
    verdict = found.verdict
    return np.asarray(
        ((verdict == "helps") & ~helps) | ((verdict == "hurts") & ~hurts) | ((verdict == "no effect") & ~within)
    )


def fixed(x: np.ndarray, effect: np.ndarray, rule: Rule) -> Claims:
    return judge(*summaries(x + np.broadcast_to(effect, x.shape[:2])[..., None]), rule, arm=ARM[: x.shape[1]])


def stopping(x: np.ndarray, effect: np.ndarray, rule: Rule) -> Claims:
    looks = schedule(3, 16)
    y = x + np.broadcast_to(effect, x.shape[:2])[..., None]
    seen = [summaries(y[..., : look.trials]) for look in looks]
    # A setting whose comparisons are all claimed gets no further trials; most that settle do so by the second look.
    for number in (1, 2):
        claimed = judge_looks(seen[:number], looks[:number], rule, arm=ARM).verdict != "undecided"
        done = claimed[:, 0::2] & claimed[:, 1::2]
        stopped = np.repeat(done, 2, axis=1)
        seen[number] = tuple(  # type: ignore[assignment]
            np.where(stopped, old, new) for old, new in zip(seen[number - 1], seen[number], strict=True)
        )
    seen[3] = tuple(  # type: ignore[assignment]
        np.where(stopped, old, new) for old, new in zip(seen[2], seen[3], strict=True)
    )
    return judge_looks(seen, looks, rule, arm=ARM)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("trials", [3, 5, 8, 16])
def test_at_most_alpha_of_null_sweeps_make_a_wrong_claim(noise: str, trials: int) -> None:
    random = np.random.default_rng(trials)
    for deviation, effect in ((0.01, MARGIN), (0.03, MARGIN), (0.03, 0.0)):
        x = NOISES[noise](random, (SWEEPS, 40, trials), deviation)
        assert wrong(fixed(x, np.array(effect), HOLM), np.array(effect)).any(axis=1).mean() <= MOST


@pytest.mark.parametrize("noise", NOISES)
def test_stopping_when_settled_makes_no_more_wrong_claims(noise: str) -> None:
    x = NOISES[noise](np.random.default_rng(4), (SWEEPS, 40, 16), 0.015)
    for effect in (MARGIN, np.where(np.arange(40) < 20, 0.3, MARGIN)):
        found = stopping(x, np.asarray(effect), HOLM)
        assert wrong(found, np.asarray(effect)).any(axis=1).mean() <= MOST


def test_steps_after_right_claims_stay_honest() -> None:
    """Half of the comparisons are claimed with ease, so Holm tests the other half, at the margin, at alpha / 20."""
    effect = np.where(np.arange(40) < 20, 0.5, MARGIN)
    for trials in (3, 8):
        found = fixed(normal(np.random.default_rng(1), (SWEEPS, 40, trials), 0.01), effect, HOLM)
        rate = wrong(found, effect).any(axis=1).mean()
        assert rate <= MOST
        assert np.mean(found.verdict[:, :20] == "helps") > 0.99


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("how", [fixed, stopping])
def test_fdr_keeps_the_share_of_wrong_claims(noise: str, how: object) -> None:
    random = np.random.default_rng(7)
    x = NOISES[noise](random, (SWEEPS, 40, 16 if how is stopping else 4), 0.01)
    effect = np.where(random.random((SWEEPS, 40)) < 0.6, MARGIN, random.normal(0, 0.1, (SWEEPS, 40)))
    found = how(x, effect, FDR)  # type: ignore[operator]
    claims = np.sum(found.verdict != "undecided", axis=1)
    share = np.sum(wrong(found, effect), axis=1) / np.maximum(claims, 1)
    assert share.mean() <= ALPHA + 2.6 * share.std() / np.sqrt(SWEEPS)
    assert claims.mean() > 4


def paper_like(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    scatter = [0.011, 0.022, 0.028, 0.037, 0.039, 0.039, 0.047, 0.051, 0.057, 0.062, 0.092, 0.096, 0.098, 0.099, 0.105,
               0.105, 0.106, 0.12, 0.123, 0.128, 0.136, 0.193, 0.196, 0.198, 0.208, 0.21, 0.233]  # fmt: skip
    effect = random.normal(-0.22, 0.10, (SWEEPS, 27))
    return random.normal(0, 1, (SWEEPS, 27, 3)) * random.choice(scatter, (SWEEPS, 27, 1)), effect


def gpu_like(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (SWEEPS, 27)
    effect = np.where(random.random(shape) < 0.4, 0.0, random.normal(0, 0.08, shape))
    return random.normal(0, 1, (*shape, 3)) * 0.01 * np.exp(random.normal(0, 0.6, (*shape, 1))), effect


def noisy_cloud(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (SWEEPS, 27)
    effect = np.where(random.random(shape) < 0.4, 0.0, random.normal(0, 0.10, shape))
    return random.normal(0, 1, (*shape, 3)) * 0.04 * np.exp(random.normal(0, 0.8, (*shape, 1))), effect


@pytest.mark.parametrize(
    ("world", "holm", "fdr"),
    [(paper_like, 0.25, 0.55), (gpu_like, 0.50, 0.70), (noisy_cloud, 0.06, 0.12)],
    ids=["paper", "gpu", "noisy"],
)
def test_three_trials_settle_so_many_of_27_settings(world: object, holm: float, fdr: float) -> None:
    x, effect = world(np.random.default_rng(11))  # type: ignore[operator]
    for rule, least in ((HOLM, holm), (FDR, fdr)):
        found = judge(*summaries(x + effect[..., None]), rule)
        assert np.mean(found.verdict != "undecided") > least
        own = judge(*summaries(x + effect[..., None]), Rule(MARGIN, ALPHA, rule.multiplicity, "own"))
        assert np.mean(own.verdict != "undecided") < np.mean(found.verdict != "undecided")


def test_a_settled_sweep_needs_few_trials() -> None:
    """Effects of 10 % are settled at the first looks; a fixed 8 would always take 8."""
    x = normal(np.random.default_rng(3), (200, 40, 16), 0.01)
    looks = schedule(3, 16)
    taken = np.zeros((200, 40))
    for number, look in enumerate(looks):
        seen = [summaries(x[..., : one.trials] + 0.1) for one in looks[: number + 1]]
        undecided = judge_looks(seen, looks[: number + 1], HOLM).verdict == "undecided"
        taken = np.where((taken == 0) & ~undecided, look.trials, taken)
    assert np.mean(np.where(taken == 0, 16, taken)) < 4.6


@settings(deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=30), st.sampled_from(["holm", "fdr"]))
def test_adjusted_p_are_statsmodels(p_values: list[float], multiplicity: Multiplicity) -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.array(p_values)
    tests = ~np.isnan(p)
    adjusted = adjust(p, multiplicity)
    assert np.isnan(adjusted[~tests]).all()
    if tests.any():
        method = {"holm": "holm", "fdr": "fdr_bh"}[multiplicity]
        np.testing.assert_allclose(adjusted[tests], multipletests(p[tests], method=method)[1], rtol=1e-12)
    clear = np.abs(adjusted - ALPHA) > 1e-12
    assert ((p <= levels(p, ALPHA, multiplicity)) == (adjusted <= ALPHA))[clear & tests].all()
    np.testing.assert_array_equal(adjust(np.stack([p, p]), multiplicity)[1], adjusted)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(2, 12), st.floats(-0.1, 0.1), st.floats(1e-4, 0.1),
    st.sampled_from(["holm", "fdr"]), st.sampled_from(["own", "moderated"]), st.integers(1, 40),
)  # fmt: skip
def test_p_verdict_and_interval_cannot_disagree(
    seed: int, trials: int, effect: float, deviation: float, multiplicity: Multiplicity, variance: str, number: int
) -> None:
    x = normal(np.random.default_rng(seed), (1, number, trials), deviation)[0] + effect
    found = judge(*summaries(x), Rule(MARGIN, ALPHA, multiplicity, variance))  # type: ignore[arg-type]
    verdict = found.verdict
    np.testing.assert_array_equal(verdict != "undecided", found.p_adjusted <= ALPHA)
    np.testing.assert_array_equal(verdict == "helps", found.low >= MARGIN)
    np.testing.assert_array_equal(verdict == "hurts", found.high <= -MARGIN)
    np.testing.assert_array_equal(verdict == "no effect", (found.low >= -MARGIN) & (found.high <= MARGIN))


def test_one_trial_and_trials_without_spread_give_numbers_not_nan() -> None:
    found = judge([1, 3, 3], [0.1, 0.1, 0.0], [np.nan, 0.0, 0.0], HOLM)
    assert found.verdict.tolist() == ["undecided", "helps", "no effect"]
    assert np.isnan(found.low[0])
    assert np.isnan(found.p_adjusted[0])
    assert found.low[1] == found.high[1] == 0.1


def test_one_comparison_is_judged_by_its_own_t() -> None:
    """Alone: beyond the margin by the two-sided interval of level 1 - alpha."""
    x = stalls(np.random.default_rng(0), (2000, 1, 6), 0.02) + 0.04
    count, mean, deviation = summaries(x)
    found = judge(count, mean, deviation, HOLM)
    from scipy import stats

    low, _ = stats.t.interval(0.95, 5, mean, deviation / np.sqrt(6))
    np.testing.assert_array_equal(found.verdict == "helps", low > MARGIN)
    assert 0 < np.mean(found.verdict == "helps") < 1


def test_swapped_arms_turn_every_verdict_around() -> None:
    x = normal(np.random.default_rng(2), (50, 40, 3), 0.02) + np.linspace(-0.2, 0.2, 40)[:, None]
    one, other = judge(*summaries(x), HOLM), judge(*summaries(-x), HOLM)
    turned = {"helps": "hurts", "hurts": "helps"}
    assert one.verdict.ravel().tolist() == [turned.get(v, v) for v in other.verdict.ravel().tolist()]
    np.testing.assert_allclose(one.low, -other.high)
    assert len(set(one.verdict.ravel())) > 2
