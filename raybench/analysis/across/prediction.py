"""What to expect of an unmeasured setting, and what explains the measured ones.

Every setting with a speedup is described by what is known before a run (`NUMERIC` and `TEXTS`). A regression, tested
on left-out models (`raybench.statistics.regression`), gives an interval, or the advice to measure: when the interval
crosses the margin, when the setting lies outside the measured range, or when too few models were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from raybench.analysis.analysis import Analysis
from raybench.analysis.arrays import parse_object
from raybench.analysis.results import Comparison
from raybench.statistics.estimate import number, ratio
from raybench.statistics.inference import Floats
from raybench.statistics.regression import LEAST_MODELS, Design, calibration, fit

MODEL_FACTS: Final = ("num_parameters", "num_parameter_tensors", "flops_per_byte")  # as in legs' facts
NUMERIC: Final = ("batch_size", "workers", *MODEL_FACTS)
TEXTS: Final = ("family", "precision", "dataset")
_SLACK: Final = 1.05  # factor by which a setting may exceed the measured range


@dataclass(frozen=True)
class Prediction:
    """What to expect of one arm. Ratios are speedups."""

    arm: str
    answer: str  # `helps`, `no effect`, `hurts` or `measure it`
    reasons: tuple[str, ...]  # why to measure it
    speedup: float | None
    low: float | None
    high: float | None
    measured: float | None  # where the ledgers hold exactly this setting
    features: dict[str, float]  # coefficient of the log speedup per unit of the feature (numbers enter as natural logs)
    explained: float | None  # share of the variance between models, out of sample
    coverage: float | None  # of such intervals on left-out models; nominally 1 - alpha
    num_models: int
    num_settings: int


@dataclass(frozen=True)
class Explanation:
    """A regression of one arm's log speedups; see `raybench.statistics.regression`."""

    arm: str
    features: dict[str, float]  # coefficient of the log speedup per unit of the feature (numbers enter as natural logs)
    explained: float | None  # share of the variance between models, out of sample
    error: float | None  # error of the log speedup of a left-out model
    num_models: int
    num_settings: int


def explain(analysis: Analysis, arm: str) -> Explanation:
    """Which features known before a run explain an arm's speedups, and how much of them."""
    members, rows = _settings(analysis, arm)
    if not rows:
        return Explanation(arm, {}, None, None, 0, 0)
    design, features = _design(members, rows, rows[0])
    found = fit(design, list(features))
    coefficients = dict(zip(found.features, found.coefficients, strict=True))
    return Explanation(arm, coefficients, number(found.explained), number(found.error), found.num_models, len(rows))


def predict(analysis: Analysis, wanted: Mapping[str, Any], arm: str) -> Prediction:
    """The prediction of one arm for the setting `wanted`: its model, and what is known of `NUMERIC` and `TEXTS`.

    The analysis must hold one hardware. Missing numbers are taken from settings of the same model; a feature that stays
    unknown is not used.
    """
    members, rows = _settings(analysis, arm)
    target = _complete(wanted, rows)
    reasons = list(_outside(target, rows))
    num_models = len({row["model"] for row in rows})
    if num_models < LEAST_MODELS:
        reasons.append(f"only {num_models} models were measured with {arm}; a prediction needs at least {LEAST_MODELS}")
        return Prediction(
            arm, "measure it", tuple(reasons), None, None, None, None, {}, None, None, num_models, len(rows)
        )
    design, features = _design(members, rows, target)
    found = fit(design, list(features))
    mean, half = found.predict(features), found.half_width(analysis.alpha)
    low, high = mean - half, mean + half
    margin = float(np.log1p(analysis.margin))
    answer = "measure it"
    if low > margin:
        answer = "helps"
    elif high < -margin:
        answer = "hurts"
    elif -margin < low and high < margin:
        answer = "no effect"
    else:
        reasons.append("the interval crosses the margin")
    return Prediction(
        arm,
        "measure it" if reasons else answer,
        tuple(reasons),
        ratio(mean),
        ratio(low),
        ratio(high),
        _measured(members, rows, target),
        dict(zip(found.features, found.coefficients, strict=True)),
        number(found.explained),
        number(calibration(design, list(features), analysis.alpha)),
        num_models,
        len(rows),
    )


def _settings(analysis: Analysis, arm: str) -> tuple[list[Comparison], list[dict[str, Any]]]:
    """The arm's settings that have a speedup, each with what is known before a run."""
    members = [
        c
        for c in analysis.comparisons
        if c.arm == arm and c.speedup.value is not None and c.verdict != "not comparable"
    ]
    known = _sizes(analysis)
    return members, [_describe(c, known) for c in members]


def _sizes(analysis: Analysis) -> dict[str, dict[str, float]]:
    """Parameters, tensors and work by setting_id (work depends on the images too), from its first leg with facts."""
    legs = analysis.pairs.legs
    settings, facts_of = legs.text["setting_id"], legs.text["facts"]
    sizes: dict[str, dict[str, float]] = {}
    for row in np.unique(settings.codes * (len(facts_of.names) + 1) + facts_of.codes + 1, return_index=True)[1]:
        of_setting = sizes.setdefault(settings[row], {})
        if len(of_setting) == len(MODEL_FACTS):
            continue
        facts = parse_object(facts_of[row])
        facts = {**(facts.get("informative") or {}), **facts}
        for name in MODEL_FACTS:
            if isinstance(facts.get(name), int | float) and facts[name] > 0:
                of_setting[name] = float(facts[name])
    return sizes


def _describe(c: Comparison, sizes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    row = {"model": c.where.model, "family": c.where.family, "precision": c.where.precision, "dataset": c.where.dataset}
    return (
        row | {"batch_size": c.where.global_batch, "workers": c.where.workers} | dict(sizes.get(c.where.setting_id, {}))
    )


def _complete(wanted: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The setting, completed with values of its model, or with values that all of the ledgers' settings share."""
    target = dict(wanted)
    same = [row for row in rows if row["model"] == wanted["model"]]
    for name in ("family", *MODEL_FACTS):
        values = {row.get(name) for row in same}
        if name not in target and len(values) == 1 and values != {None}:
            target[name] = values.pop()
    for name in ("batch_size", "workers", "precision", "dataset"):
        values = {row[name] for row in rows}
        if name not in target and len(values) == 1:
            target[name] = values.pop()
    return target


def _outside(target: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the setting lies outside the measured range, in words."""
    found = []
    for name in NUMERIC:
        seen = [row[name] for row in rows if row.get(name) is not None]
        if name in target and seen and not min(seen) / _SLACK <= target[name] <= max(seen) * _SLACK:
            found.append(f"{name}={target[name]:g} lies outside the {min(seen):g} to {max(seen):g} that were measured")
    for name in TEXTS:
        values = sorted({row[name] for row in rows})
        if name in target and values and target[name] not in values:
            found.append(f"no {name} {target[name]} was measured, only {', '.join(values)}")
    return found


def _design(
    members: Sequence[Comparison], rows: Sequence[Mapping[str, Any]], target: Mapping[str, Any]
) -> tuple[Design, dict[str, float]]:
    """The settings as numbers, and the target's features: those known for all settings and for the target."""
    columns: dict[str, Floats] = {}
    features: dict[str, float] = {}
    for name in NUMERIC:
        values = [row.get(name) for row in rows]
        if name in target and all(values) and len(set(values)) > 1:
            columns[name] = np.log(np.array(values, dtype=float))
            features[name] = float(np.log(target[name]))
    for name in TEXTS:
        for value in sorted({row[name] for row in rows})[1:]:
            if name in target:
                columns[f"{name} {value}"] = np.array([float(row[name] == value) for row in rows])
                features[f"{name} {value}"] = float(target[name] == value)
    models = sorted({row["model"] for row in rows})
    code = {model: i for i, model in enumerate(models)}
    codes = np.array([code[row["model"]] for row in rows])
    return Design(columns, codes, np.log(np.array([c.speedup.value for c in members], dtype=float))), features


def _measured(
    members: Sequence[Comparison], rows: Sequence[Mapping[str, Any]], target: Mapping[str, Any]
) -> float | None:
    names = ("model", "batch_size", "workers", "precision", "dataset")
    if not all(name in target for name in names):
        return None
    return next(
        (c.speedup.value for c, row in zip(members, rows, strict=True) if all(row[n] == target[n] for n in names)), None
    )
