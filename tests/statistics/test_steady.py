"""Where the steady state begins, on step times made for it."""

from __future__ import annotations

import numpy as np
import pytest

from raybench.statistics.steady import _last_change, steady_from_step


def times(levels: list[tuple[int, float]], noise: float = 0.02, seed: int = 0) -> list[float]:
    draw = np.random.default_rng(seed)
    return [level * float(np.exp(draw.normal(0, noise))) for count, level in levels for _ in range(count)]


def test_one_level_is_steady_from_the_start() -> None:
    found = [steady_from_step(times([(100, 0.01)], seed=seed)) for seed in range(40)]
    assert sum(step != 0 for step in found) <= 1


def test_a_slow_warm_up_ends_where_it_ends() -> None:
    found = steady_from_step(times([(20, 0.02), (80, 0.01)]))
    assert found is not None
    assert abs(found - 20) <= 1


def test_a_change_in_the_measured_window_is_seen() -> None:
    found = steady_from_step(times([(70, 0.010), (30, 0.012)]))
    assert found is not None
    assert abs(found - 70) <= 2


def test_one_slow_step_is_no_change() -> None:
    values = times([(100, 0.01)])
    values[60] *= 8
    assert steady_from_step(values) == 0


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_steps_say_nothing(count: int) -> None:
    assert steady_from_step([0.01] * count) is None


def test_identical_steps_are_steady() -> None:
    assert steady_from_step([0.01] * 50) == 0


def test_the_partition_is_the_best_one() -> None:
    """Against every partition into up to three segments, tried one by one."""
    draw = np.random.default_rng(3)
    for _ in range(20):
        signal = np.log(
            times([(8, 0.02), (7, 0.01 * float(draw.uniform(0.8, 1.2))), (9, 0.01)], seed=int(draw.integers(99)))
        )
        penalty = float(draw.uniform(0.001, 0.05))
        places = range(5, len(signal) - 4)
        cuts = [(), *((a,) for a in places), *((a, b) for a in places for b in places if b - a >= 5)]
        best = min(cuts, key=lambda cut: _cost(signal, cut, penalty))
        assert len(best) < 3
        assert _last_change(signal, penalty) == (best[-1] if best else 0)


def _cost(signal: np.ndarray, cuts: tuple[int, ...], penalty: float) -> float:
    parts = np.split(signal, cuts)
    return sum(float(part.var()) * len(part) + penalty for part in parts)
