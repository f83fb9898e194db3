"""What explains the speedups, and what to expect of a setting that was not measured.

A small linear regression of an arm's log speedup on what is known before a run. Settings of one model are
alike, so *whole models* are left out when anything is judged: which features to use (forward selection, at most
one for every four models), how wide the interval is (t on the errors of left-out models, each model counting
once), and how often such an interval holds the truth (everything repeated without the model in question).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from raybench.statistics.inference import Floats, t_quantile

LEAST_MODELS: Final = 5
MOST_FOLDS: Final = 40
MODELS_A_FEATURE: Final = 4


@dataclass(frozen=True)
class Design:
    """Settings as numbers: `columns` of shape (settings,), one a feature, and which model each setting is of."""

    columns: Mapping[str, Floats]
    model: np.ndarray  # codes, (settings,)
    log_speedup: Floats  # (settings,)


@dataclass(frozen=True)
class Fit:
    """A fitted regression: `intercept + sum(coefficient x feature)`, and the errors on left-out models."""

    features: tuple[str, ...]
    intercept: float
    coefficients: tuple[float, ...]
    error: float  # root of the mean over models of the mean squared error, each model left out
    explained: float  # 1 - (that error / the same without features) squared: out of sample, may be negative
    num_models: int

    def predict(self, features: Mapping[str, float]) -> float:
        """Log speedup of one setting."""
        return self.intercept + sum(
            coefficient * features[name] for name, coefficient in zip(self.features, self.coefficients, strict=True)
        )

    def half_width(self, alpha: float) -> float:
        """Half the width of the prediction interval of level 1 - alpha, on the log scale."""
        return float(t_quantile(self.num_models, alpha / 2)) * self.error


def fit(design: Design, candidates: Sequence[str]) -> Fit:
    """Choose features and fit. With fewer than two models nothing can be left out: the error is nan."""
    num_models = len(np.unique(design.model))
    chosen: list[str] = []
    best = empty = _left_out_error(design, [])
    while len(chosen) < num_models // MODELS_A_FEATURE:
        errors = {name: _left_out_error(design, [*chosen, name]) for name in candidates if name not in chosen}
        name = min(errors, key=lambda one: errors[one], default="")
        # A feature must earn its place: less than a twentieth off the error is as likely chance.
        if not name or not errors[name] < 0.95 * best:
            break
        chosen.append(name)
        best = errors[name]
    solution = _solve(_matrix(design, chosen), design.log_speedup, _weights(design.model))
    explained = 1 - (best / empty) ** 2 if empty > 0 else 0.0
    return Fit(tuple(chosen), float(solution[0]), tuple(map(float, solution[1:])), best, explained, num_models)


def calibration(design: Design, candidates: Sequence[str], alpha: float) -> float:
    """How many of the models' settings lie in the interval made without their model, each model counting once.

    Nominally 1 - alpha. nan with fewer than `LEAST_MODELS` models.
    """
    folds = _folds(design.model)
    if len(np.unique(design.model)) < LEAST_MODELS:
        return float("nan")
    shares = []
    for left_out in folds:
        kept = Design(
            {name: column[~left_out] for name, column in design.columns.items()},
            design.model[~left_out],
            design.log_speedup[~left_out],
        )
        found = fit(kept, candidates)
        for row_model in np.unique(design.model[left_out]):
            rows = np.flatnonzero(design.model == row_model)
            errors = [
                design.log_speedup[row] - found.predict({n: float(c[row]) for n, c in design.columns.items()})
                for row in rows
            ]
            shares.append(float(np.mean(np.abs(errors) <= found.half_width(alpha))))
    return float(np.mean(shares))


def _left_out_error(design: Design, features: Sequence[str]) -> float:
    """Root of the mean over models of their mean squared error when they are left out; nan for one model."""
    if len(np.unique(design.model)) < 2:
        return float("nan")
    x, y, weights = _matrix(design, features), design.log_speedup, _weights(design.model)
    squared = np.zeros(len(y))
    for left_out in _folds(design.model):
        solution = _solve(x[~left_out], y[~left_out], weights[~left_out])
        squared[left_out] = (y[left_out] - x[left_out] @ solution) ** 2
    return float(np.sqrt(np.sum(squared * weights) / weights.sum()))


def _folds(model: np.ndarray) -> list[np.ndarray]:
    """Masks of what to leave out together: one model each, or with very many models a share of them."""
    models = np.unique(model)
    return [
        np.isin(model, models[start :: min(len(models), MOST_FOLDS)]) for start in range(min(len(models), MOST_FOLDS))
    ]


def _matrix(design: Design, features: Sequence[str]) -> Floats:
    return np.column_stack([np.ones(len(design.log_speedup)), *(design.columns[name] for name in features)])


def _weights(model: np.ndarray) -> Floats:
    """Each model counts once, however many settings it has."""
    _, code, counts = np.unique(model, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[code])


def _solve(x: Floats, y: Floats, weights: Floats) -> Floats:
    scale = np.sqrt(weights)
    return np.asarray(np.linalg.lstsq(x * scale[:, None], y * scale, rcond=None)[0])
