"""What explains the speedups, and what to expect of an unmeasured setting.

A small linear regression of an arm's log speedup on features known before a run. Settings of one model are alike, so
*whole models* are left out whenever something is judged: which features to use (forward selection, at most one for
every four models), how wide the interval is (t on the errors of left-out models, each model counting once), and how
often such an interval covers the true value (everything repeated without the model in question).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from raybench.statistics.inference import Floats, t_quantile

Folds = list[tuple[np.ndarray, np.ndarray]]  # rows to keep, rows to leave out

LEAST_MODELS: Final = 5
MOST_FOLDS: Final = 40
MODELS_A_FEATURE: Final = 4


@dataclass(frozen=True)
class Design:
    """Settings as numbers: `columns` of shape (settings,), one per feature, and each setting's model."""

    columns: Mapping[str, Floats]
    model: np.ndarray  # codes, (settings,)
    log_speedup: Floats  # (settings,)

    def matrix(self, features: Sequence[str]) -> Floats:
        """Ones, then the features. Shape (settings, 1 + features)."""
        return np.column_stack([np.ones(len(self.model)), *(self.columns[name] for name in features)])

    def weights(self) -> Floats:
        """Each model counts once, however many settings it has. Shape (settings,)."""
        _, code, counts = np.unique(self.model, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / counts[code])

    def only(self, rows: Floats) -> Design:
        """The settings of these rows."""
        return Design({name: c[rows] for name, c in self.columns.items()}, self.model[rows], self.log_speedup[rows])


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
    """Choose features and fit. With fewer than two models none can be left out: the error is nan."""
    num_models = len(np.unique(design.model))
    chosen: list[str] = []
    folds = _folds(design.model)
    best = empty = _left_out_error(design, [], folds)
    while len(chosen) < num_models // MODELS_A_FEATURE:
        errors = {name: _left_out_error(design, [*chosen, name], folds) for name in candidates if name not in chosen}
        name = min(errors, key=lambda one: errors[one], default="")
        # A feature must reduce the error by at least a twentieth; less may be chance.
        if not name or not errors[name] < 0.95 * best:
            break
        chosen.append(name)
        best = errors[name]
    solution = _solve(design.matrix(chosen), design.log_speedup, design.weights())
    explained = 1 - (best / empty) ** 2 if empty > 0 else 0.0
    return Fit(tuple(chosen), float(solution[0]), tuple(map(float, solution[1:])), best, explained, num_models)


def calibration(design: Design, candidates: Sequence[str], alpha: float) -> float:
    """The share of the models' settings that lie in the interval made without their model, each model counting once.

    Nominally 1 - alpha. nan with fewer than `LEAST_MODELS` models.
    """
    if len(np.unique(design.model)) < LEAST_MODELS:
        return float("nan")
    inside = np.zeros(len(design.model))
    for kept, left_out in _folds(design.model):
        found = fit(design.only(kept), candidates)
        apart = design.only(left_out)
        expected = apart.matrix(found.features) @ np.array([found.intercept, *found.coefficients])
        inside[left_out] = np.abs(apart.log_speedup - expected) <= found.half_width(alpha)
    return float(np.average(inside, weights=design.weights()))


def _left_out_error(design: Design, features: Sequence[str], folds: Folds) -> float:
    """Root of the mean over models of their mean squared error when left out; nan for one model."""
    if not folds:
        return float("nan")
    x, weights = design.matrix(features), design.weights()
    squared = np.zeros(len(design.model))
    for kept, left_out in folds:
        solution = _solve(x[kept], design.log_speedup[kept], weights[kept])
        squared[left_out] = (design.log_speedup[left_out] - x[left_out] @ solution) ** 2
    return float(np.sqrt(np.average(squared, weights=weights)))


def _folds(model: np.ndarray) -> Folds:
    """Rows to keep and rows to leave out: one model each, or a share of very many models; empty for one model."""
    from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

    num_models = len(np.unique(model))
    if num_models < 2:
        return []
    folds = LeaveOneGroupOut() if num_models <= MOST_FOLDS else GroupKFold(MOST_FOLDS)
    return list(folds.split(model, groups=model))


def _solve(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Weighted least squares by NumPy: one regression object per fold took most of a prediction's time."""
    scale = np.sqrt(weights)
    return np.asarray(np.linalg.lstsq(x * scale[:, None], y * scale, rcond=None)[0])
