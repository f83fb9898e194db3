"""Noise for simulated sweeps: log ratios of shape (sweeps, comparisons, trials), true effect 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.random.Generator, tuple[int, int, int], float], np.ndarray]


def normal(random: np.random.Generator, shape: tuple[int, int, int], deviation: float) -> np.ndarray:
    return random.normal(0, deviation, shape)


def uneven(random: np.random.Generator, shape: tuple[int, int, int], deviation: float) -> np.ndarray:
    """Settings scatter differently: log-normally, by a factor of 1.8 up or down."""
    return random.normal(0, 1, shape) * deviation * np.exp(random.normal(0, 0.6, (*shape[:2], 1)))


def heavy(random: np.random.Generator, shape: tuple[int, int, int], deviation: float) -> np.ndarray:
    """Student's t with 3 degrees of freedom."""
    return random.standard_t(3, shape) * deviation / np.sqrt(3)


def stalls(random: np.random.Generator, shape: tuple[int, int, int], deviation: float) -> np.ndarray:
    """In one of ten trials one of the two sides stalls, either as often."""
    stalled = random.random(shape) < 0.1
    return random.normal(0, deviation, shape) + stalled * random.choice([-1, 1], shape) * random.exponential(
        4 * deviation, shape
    )


def drift(random: np.random.Generator, shape: tuple[int, int, int], deviation: float) -> np.ndarray:
    """The machine drifts, and orders that alternate from trial to trial turn what is left of it around."""
    sign = random.choice([-1, 1], shape)
    return random.normal(0, deviation, shape) + sign * deviation * random.random((*shape[:2], 1))


NOISES: dict[str, Draw] = {f.__name__: f for f in (normal, uneven, heavy, stalls, drift)}


def summaries(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and sample standard deviation of (..., trials)."""
    return np.full(x.shape[:-1], float(x.shape[-1])), x.mean(axis=-1), x.std(axis=-1, ddof=1)
