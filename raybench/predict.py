"""`python -m raybench.predict LEDGER... model=...`: the speedup to expect of a setting that was not measured.

An interval from the ledgers' settings, or "measure it": when the interval crosses the margin, when the setting
lies outside what was seen, or when too few models were. How good such intervals are is measured on the same
ledgers by leaving whole models out, and is printed beside the answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.cli import Arguments, parse_arguments, run_command, suggest
from raybench.errors import UserError

if TYPE_CHECKING:
    from raybench.analysis import Analysis, Comparison
    from raybench.analysis.regression import Design

USAGE = """
usage: python -m raybench.predict LEDGER... model=NAME [key=value ...] [--json]

The speedup to expect of a setting that was not measured: an interval, or "measure it".

  model=NAME          a model of the ledgers, or another one
  batch_size=128      global; left out, it must be the same in all settings of the ledgers, or is not used
  workers=4           as batch_size
  precision=bf16      as batch_size
  dataset=cifar10     as batch_size
  family=cnn          known for a model of the ledgers
  num_parameters=25.6e6, num_parameter_tensors=161
                      known for a model of the ledgers; of another, they sharpen the answer
  arm=zero3           one arm; all arms otherwise
  hardware=H100       a part of its name, where the ledgers hold several
  margin=0.03 alpha=0.05 baseline=ARM

  --json              everything, as one JSON object

example:
  python -m raybench.predict mlruns/ledger/cnns/friday model=resnet101 num_parameters=44.5e6 batch_size=256
"""
NUMERIC = {"batch_size": "global_batch", "workers": "workers", "num_parameters": "num_parameters",
           "num_parameter_tensors": "num_parameter_tensors"}  # fmt: skip
TEXTS = ("family", "precision", "dataset")
KEYS = ("model", *NUMERIC, *TEXTS, "arm", "hardware", "margin", "alpha", "baseline")
_SLACK = 1.05  # how far outside the range seen still counts as within


@dataclass(frozen=True)
class Prediction:
    """What to expect of one arm. Ratios are speedups."""

    arm: str
    answer: str  # `helps`, `no effect`, `hurts` or `measure it`
    reasons: tuple[str, ...]  # why it should be measured
    speedup: float | None
    low: float | None
    high: float | None
    measured: float | None  # where the ledgers hold this very setting
    features: dict[str, float]  # of log speedup, by unit of the feature (numbers enter as natural logs)
    explained: float | None  # share of the variance between models, out of sample
    coverage: float | None  # of such intervals on left-out models; nominally 1 - alpha
    num_models: int
    num_settings: int


def predict(analysis: Analysis, wanted: Mapping[str, Any], arm: str) -> Prediction:
    """The prediction of one arm for the setting `wanted`: model, and what is known of `NUMERIC` and `TEXTS`.

    The analysis must hold one hardware. Numbers that the setting does not give are taken from settings of the
    same model; a feature that stays unknown is not used.
    """
    import numpy as np

    from raybench.analysis.regression import LEAST_MODELS, calibration, fit
    from raybench.analysis.results import number, ratio

    members = [
        c for c in analysis.comparisons if c.arm == arm and c.speedup is not None and c.verdict != "not comparable"
    ]
    known = _sizes(analysis)
    rows = [_describe(c, known) for c in members]
    target = _complete(wanted, rows)
    reasons = list(_outside(target, rows))
    num_models = len({row["model"] for row in rows})
    if num_models < LEAST_MODELS:
        reasons.append(f"only {num_models} models were measured with {arm}; {LEAST_MODELS} are the least to go by")
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


def _sizes(analysis: Analysis) -> dict[str, dict[str, float]]:
    """Parameters and tensors by model, from the facts of its first leg that states them."""
    import numpy as np

    from raybench.analysis.legs import parse_object

    legs = analysis.pairs.legs
    sizes: dict[str, dict[str, float]] = {}
    for row in np.unique(legs.text["model"].codes * (len(legs.text["facts"].names) + 1) + legs.text["facts"].codes + 1,
                         return_index=True)[1]:  # fmt: skip
        model = legs.text["model"][row]
        if len(sizes.get(model, {})) == 2:
            continue
        facts = parse_object(legs.text["facts"][row])
        facts = {**(facts.get("informative") or {}), **facts}
        for name in ("num_parameters", "num_parameter_tensors"):
            if isinstance(facts.get(name), int | float) and facts[name] > 0:
                sizes.setdefault(model, {})[name] = float(facts[name])
    return sizes


def _describe(c: Comparison, sizes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    row = {"model": c.model, "family": c.family, "precision": c.precision, "dataset": c.dataset}
    return row | {"batch_size": c.global_batch, "workers": c.workers} | dict(sizes.get(c.model, {}))


def _complete(wanted: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The setting with what its model, or all of the ledgers' settings alike, already say."""
    target = dict(wanted)
    same = [row for row in rows if row["model"] == wanted["model"]]
    for name in ("family", "num_parameters", "num_parameter_tensors"):
        if name not in target and same and same[0].get(name) is not None:
            target[name] = same[0][name]
    for name in ("batch_size", "workers", "precision", "dataset"):
        values = {row[name] for row in rows}
        if name not in target and len(values) == 1:
            target[name] = values.pop()
    return target


def _outside(target: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the setting lies outside what was seen, in words."""
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
    """The settings as numbers, and the target's features: those known of all settings and of the target."""
    import numpy as np

    from raybench.analysis.regression import Design

    columns: dict[str, Any] = {}
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
    return Design(columns, codes, np.log(np.array([c.speedup for c in members], dtype=float))), features


def _measured(
    members: Sequence[Comparison], rows: Sequence[Mapping[str, Any]], target: Mapping[str, Any]
) -> float | None:
    names = ("model", "batch_size", "workers", "precision", "dataset")
    if not all(name in target for name in names):
        return None
    return next(
        (c.speedup for c, row in zip(members, rows, strict=True) if all(row[n] == target[n] for n in names)), None
    )


def sentence(one: Prediction, wanted: Mapping[str, Any], alpha: float) -> str:
    """The prediction as a person would say it."""
    from raybench.analysis.words import percent

    interval = (
        ""
        if one.low is None
        else (f" {one.speedup:.3f}, {percent(1 - alpha)} of the time between {one.low:.3f} and {one.high:.3f}")
    )
    basis = f"from {one.num_settings} settings of {one.num_models} models"
    if one.coverage is not None:
        basis += f"; on left-out models such intervals held {percent(one.coverage)} of the time"
    if one.explained is not None and one.features:
        basis += f"; {', '.join(one.features)} explain {percent(max(0.0, one.explained))} of the variance"
    why = f": {'; '.join(one.reasons)}" if one.reasons else ""
    known = "" if one.measured is None else f" It was measured: {one.measured:.3f}."
    expected = f", expected{interval}" if interval else ""
    return f"{one.arm} on {wanted['model']}: {one.answer}{why}{expected} ({basis}).{known}"


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments(argv, usage=USAGE, flags=["json"], positionals=(1, 1_000_000))
    for key in arguments.values:
        if key not in KEYS:
            raise UserError(f"unknown key {key}=; {suggest(key, KEYS)}")
    if "model" not in arguments.values:
        raise UserError("model= is missing; say which model to predict for, as in model=resnet50")
    wanted = _wanted(arguments)

    from raybench.analysis import analyse
    from raybench.analysis.__main__ import read_number
    from raybench.analysis.results import plain

    analysis = analyse(
        [Path(path) for path in arguments.positionals],
        margin=read_number(arguments, "margin"),
        alpha=read_number(arguments, "alpha"),
        baseline=arguments.values.get("baseline"),
    )
    analysis = _one_hardware(analysis, arguments.values.get("hardware", ""))
    arms = sorted({c.arm for c in analysis.comparisons})
    if (arm := arguments.values.get("arm")) is not None:
        if arm not in arms:
            raise UserError(f"arm={arm}: {suggest(arm, arms)}")
        arms = [arm]
    found = [predict(analysis, wanted, arm) for arm in arms]
    if "json" in arguments.flags:
        report = {"schema_version": 1, "setting": wanted, "margin": analysis.margin, "alpha": analysis.alpha}
        report |= {"baseline": analysis.baseline, "predictions": plain(found)}
        json.dump(report, sys.stdout, allow_nan=False, indent=1)
        print()
    else:
        for one in found:
            print(sentence(one, wanted, analysis.alpha))
    return 0


def _wanted(arguments: Arguments) -> dict[str, Any]:
    from raybench.analysis.__main__ import read_number

    wanted: dict[str, Any] = {key: arguments.values[key] for key in ("model", *TEXTS) if key in arguments.values}
    for key in NUMERIC:
        value = read_number(arguments, key)
        if value is not None:
            if not 0 < value < float("inf"):
                raise UserError(f"{key}={arguments.values[key]} must be above 0")
            wanted[key] = value
    return wanted


def _one_hardware(analysis: Analysis, wanted: str) -> Analysis:
    from dataclasses import replace

    names = sorted({c.hardware for c in analysis.comparisons})
    fitting = [name for name in names if wanted.lower() in name.lower()]
    if len(fitting) != 1 and names:
        raise UserError(f"hardware={wanted}: the ledgers hold {'; '.join(names)}; name one of them")
    return replace(analysis, comparisons=tuple(c for c in analysis.comparisons if c.hardware in fitting))


if __name__ == "__main__":
    run_command(main)
