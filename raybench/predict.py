"""`python -m raybench.predict LEDGER... model=...`: the speedup to expect of an unmeasured setting.

Gives an interval from the ledgers' settings, or "measure it": when the interval crosses the margin, when the setting
lies outside the measured range, or when too few models were measured. The quality of such intervals is tested on the
same ledgers by leaving whole models out, and is printed beside the answer.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("predict")

import json
import sys
from dataclasses import replace
from typing import Any

from raybench.analysis import Analysis, analyse
from raybench.analysis.across.prediction import NUMERIC, TEXTS, Explanation, explain, predict
from raybench.cli import Arguments, parse_arguments, run_command
from raybench.errors import UserError
from raybench.show.words import explained, predicted
from raybench.statistics.estimate import plain
from raybench.stores.storage import to_path
from raybench.text import suggest


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments("predict", argv)
    wanted = _wanted(arguments)

    analysis = analyse(
        [to_path(path) for path in arguments.positionals],
        margin=arguments.number("margin"),
        alpha=arguments.number("alpha"),
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
            print(explained(one) if isinstance(one, Explanation) else predicted(one, wanted, analysis.alpha))
    return 0


def _wanted(arguments: Arguments) -> dict[str, Any]:
    wanted: dict[str, Any] = {key: arguments.values[key] for key in ("model", *TEXTS) if key in arguments.values}
    for key in NUMERIC:
        value = arguments.number(key)
        if value is not None:
            if not 0 < value < float("inf"):
                raise UserError(f"{key}={arguments.values[key]} must be above 0")
            wanted[key] = value
    return wanted


def _one_hardware(analysis: Analysis, wanted: str) -> Analysis:
    names = sorted({c.where.hardware for c in analysis.comparisons})
    fitting = [name for name in names if wanted.lower() in name.lower()]
    if len(fitting) != 1 and names:
        raise UserError(f"hardware={wanted}: the ledgers hold {'; '.join(names)}; name one of them")
    return replace(analysis, comparisons=tuple(c for c in analysis.comparisons if c.where.hardware in fitting))


if __name__ == "__main__":
    run_command(main)
