"""`python -m raybench.predict LEDGER... model=...`: the speedup to expect of a setting that was not measured.

An interval from the ledgers' settings, or "measure it": when the interval crosses the margin, when the setting
lies outside what was seen, or when too few models were. How good such intervals are is measured on the same
ledgers by leaving whole models out, and is printed beside the answer.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from raybench.analysis import Analysis, analyse
from raybench.analysis.__main__ import read_number
from raybench.analysis.prediction import NUMERIC, TEXTS, Explanation, explain, explanation, predict, sentence
from raybench.analysis.results import plain
from raybench.cli import Arguments, parse_arguments, run_command, suggest
from raybench.errors import UserError
from raybench.ledger.storage import to_path

USAGE = """
usage: python -m raybench.predict LEDGER... [model=NAME] [key=value ...] [--json]

The speedup to expect of a setting that was not measured: an interval, or "measure it". Without model=, what
explains the speedups that were measured.

  model=NAME          a model of the ledgers, or another one
  batch_size=128      global; left out, it must be the same in all settings of the ledgers, or is not used
  workers=4           as batch_size
  precision=bf16      as batch_size
  dataset=cifar10     as batch_size
  family=cnn          known for a model of the ledgers
  num_parameters=25.6e6, num_parameter_tensors=161, flops_per_byte=80
                      known for a model of the ledgers; of another, they sharpen the answer
  arm=zero3           one arm; all arms otherwise
  hardware=H100       a part of its name, where the ledgers hold several
  margin=0.03 alpha=0.05 baseline=ARM

  --json              everything, as one JSON object

example:
  python -m raybench.predict mlruns/ledger/cnns/friday model=resnet101 num_parameters=44.5e6 batch_size=256
"""
KEYS = ("model", *NUMERIC, *TEXTS, "arm", "hardware", "margin", "alpha", "baseline")


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments(argv, usage=USAGE, flags=["json"], positionals=(1, 1_000_000))
    for key in arguments.values:
        if key not in KEYS:
            raise UserError(f"unknown key {key}=; {suggest(key, KEYS)}")
    wanted = _wanted(arguments)

    analysis = analyse(
        [to_path(path) for path in arguments.positionals],
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
    explaining = "model" not in wanted
    if explaining and wanted:
        raise UserError("model= is missing; say which model to predict for, as in model=resnet50")
    found = [explain(analysis, arm) if explaining else predict(analysis, wanted, arm) for arm in arms]
    if "json" in arguments.flags:
        report = {"schema_version": 1, "setting": wanted, "margin": analysis.margin, "alpha": analysis.alpha}
        report |= {"baseline": analysis.baseline, "explanations" if explaining else "predictions": plain(found)}
        json.dump(report, sys.stdout, allow_nan=False, indent=1)
        print()
    else:
        for one in found:
            print(explanation(one) if isinstance(one, Explanation) else sentence(one, wanted, analysis.alpha))
    return 0


def _wanted(arguments: Arguments) -> dict[str, Any]:
    wanted: dict[str, Any] = {key: arguments.values[key] for key in ("model", *TEXTS) if key in arguments.values}
    for key in NUMERIC:
        value = read_number(arguments, key)
        if value is not None:
            if not 0 < value < float("inf"):
                raise UserError(f"{key}={arguments.values[key]} must be above 0")
            wanted[key] = value
    return wanted


def _one_hardware(analysis: Analysis, wanted: str) -> Analysis:
    names = sorted({c.hardware for c in analysis.comparisons})
    fitting = [name for name in names if wanted.lower() in name.lower()]
    if len(fitting) != 1 and names:
        raise UserError(f"hardware={wanted}: the ledgers hold {'; '.join(names)}; name one of them")
    return replace(analysis, comparisons=tuple(c for c in analysis.comparisons if c.hardware in fitting))


if __name__ == "__main__":
    run_command(main)
