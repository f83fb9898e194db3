"""`python -m raybench.compare A B`: what changed from one sweep to another.

Another version of DeepSpeed, another machine, another day: for every arm in every setting that both ledgers
hold, the difference of their mean log ratios (speedups against the baseline), so that whatever moved the
baseline and the arm alike cancels. Trials of two sweeps are independent and may scatter differently: their
variances are added, and the degrees of freedom are those of the smaller sample (Hsu 1938), which is safe.
Welch's would be a little sharper, but it is liberal in the tails that Holm looks at: simulated, with 4 and 8
trials and five settings without a change, it claims one in 9 % of sweeps at a nominal 5 %, against 2 %
(`tests/analysis/test_compare.py`). The verdict is about the *change*, by the same rule as any other here
(`raybench.analysis.claims`), each change with its own variance.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raybench.analysis import Analysis, Comparison, analyse
from raybench.analysis.claims import Rule, judge
from raybench.analysis.estimate import number, plain, ratio
from raybench.analysis.inference import p_against, t_interval
from raybench.analysis.question import find_question
from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.show.units import percent
from raybench.stores.storage import to_path
from raybench.text import suggest

VERDICTS = (
    "helps", "no effect", "hurts", "undecided", "gained", "lost", "appeared", "disappeared", "not comparable",
    "unchanged",
)  # fmt: skip


MOST_ROWS = 60


@dataclass(frozen=True)
class Change:
    """One arm in one setting, in A and in B; ratios are speedups, `change` is B's over A's."""

    setting_id: str
    setting: str
    arm: str
    verdict: str
    before_verdict: str | None  # in A; None where A does not hold it
    after_verdict: str | None
    before: float | None
    after: float | None
    change: float | None
    ci_low: float | None  # level 1 - alpha
    ci_high: float | None
    p_value: float | None  # against no change
    p_adjusted: float | None  # of the claim, over all changes
    verdict_low: float | None  # the interval that the verdict came from
    verdict_high: float | None
    before_trials: int
    after_trials: int


def changes(a: Analysis, b: Analysis, margin: float, alpha: float) -> tuple[Change, ...]:
    """Every comparison of either analysis, matched by setting, arm and, where they share any, hardware.

    `margin` is a ratio (0.03 is 3 %). Raises UserError where the hardware does not tell which belongs to which.
    """
    before, after = _by_key(a, b)
    keys = sorted(before.keys() | after.keys(), key=lambda key: _order(before.get(key) or after[key]))
    numeric = [key for key in keys if _kind(before.get(key), after.get(key)) == "number"]
    estimates = [_difference(before[key], after[key]) for key in numeric]
    mean, error, degrees = (np.array(column, dtype=float) for column in zip(*estimates, strict=True)) if estimates \
        else (np.zeros(0),) * 3  # fmt: skip
    # `judge` knows a mean by its count and deviation: these have the degrees of freedom and the error wanted.
    count = np.where(np.isfinite(degrees), degrees + 1, 1.0)
    deviation = error * np.sqrt(count)
    found = judge(count, mean, deviation, Rule(float(np.log1p(margin)), alpha, a.multiplicity, "own"))
    low, high = t_interval(count, mean, deviation, alpha)
    p_value = p_against(count, mean, deviation)
    position = {key: i for i, key in enumerate(numeric)}
    result = []
    for key in keys:
        one, other = before.get(key), after.get(key)
        shown = one or other
        assert shown is not None
        i = position.get(key)
        result.append(
            Change(
                setting_id=shown.where.setting_id,
                setting=shown.where.setting,
                arm=shown.arm,
                verdict=_kind(one, other) if i is None else str(found.verdict[i]),
                before_verdict=one.verdict if one else None,
                after_verdict=other.verdict if other else None,
                before=one.speedup.value if one else None,
                after=other.speedup.value if other else None,
                change=None if i is None else ratio(mean[i]),
                ci_low=None if i is None else ratio(low[i]),
                ci_high=None if i is None else ratio(high[i]),
                p_value=None if i is None else number(p_value[i]),
                p_adjusted=None if i is None else number(found.p_adjusted[i]),
                verdict_low=None if i is None else ratio(found.low[i]),
                verdict_high=None if i is None else ratio(found.high[i]),
                before_trials=one.n_trials if one else 0,
                after_trials=other.n_trials if other else 0,
            )
        )
    return tuple(result)


def _order(c: Comparison) -> tuple[str, str, str, str]:
    return c.where.family, c.where.setting, c.where.setting_id, c.arm


def _by_key(a: Analysis, b: Analysis) -> tuple[dict[Any, Comparison], dict[Any, Comparison]]:
    machines = [{c.where.hardware for c in one.comparisons} for one in (a, b)]
    if machines[0] & machines[1]:
        return tuple({(c.where.setting_id, c.arm, c.where.hardware): c for c in one.comparisons} for one in (a, b))  # type: ignore[return-value]
    for name, several in zip("AB", machines, strict=True):
        if len(several) > 1:
            raise UserError(
                f"{name} holds several hardware ({'; '.join(sorted(several))}) and the other none of it; "
                "compare one at a time"
            )
    return tuple({(c.where.setting_id, c.arm, ""): c for c in one.comparisons} for one in (a, b))  # type: ignore[return-value]


def _kind(before: Comparison | None, after: Comparison | None) -> str:
    """`number` where the change is one, else the verdict that says what changed."""
    if before is None:
        return "appeared"
    if after is None:
        return "disappeared"
    if "not comparable" in (before.verdict, after.verdict):
        return "not comparable"
    if before.speedup.value is not None and after.speedup.value is not None:
        return "number"
    ran_before, ran_after = (_arm_ran(c) for c in (before, after))
    if ran_before == ran_after:
        return "unchanged" if before.verdict == after.verdict else "undecided"
    return "gained" if ran_after else "lost"


def _arm_ran(c: Comparison) -> bool:
    """Whether the arm itself ran, whatever became of the baseline."""
    return bool(c.n_trials) or all(cause.arm != c.arm for cause in c.failure_causes)


def _difference(before: Comparison, after: Comparison) -> tuple[float, float, float]:
    """(difference of log speedups, its standard error, degrees of freedom); nan under 2 trials a side."""
    assert before.speedup.value is not None
    assert after.speedup.value is not None
    difference = float(np.log(after.speedup.value / before.speedup.value))
    if before.judgement.deviation is None or after.judgement.deviation is None:
        return difference, float("nan"), float("nan")
    variance = before.judgement.deviation**2 / before.n_trials + after.judgement.deviation**2 / after.n_trials
    return difference, float(np.sqrt(variance)), min(before.n_trials, after.n_trials) - 1.0


def in_words(found: Sequence[Change], margin: float) -> str:
    """A sentence: how many got better, worse and stayed, and what came and went."""
    tally = Counter(change.verdict for change in found)
    names = {
        "helps": "got better", "hurts": "got worse", "no effect": f"did not change beyond {percent(margin)}",
        "undecided": "are undecided", "gained": "run now", "lost": "no longer run", "appeared": "appeared",
        "disappeared": "disappeared", "not comparable": "are not comparable", "unchanged": "stayed without a number",
    }  # fmt: skip
    parts = [f"{tally[verdict]} {names[verdict]}" for verdict in VERDICTS if tally[verdict]]
    return f"Of {len(found)} comparisons, {', '.join(parts)}." if found else "The ledgers hold nothing to compare."


def print_changes(a: Analysis, b: Analysis, found: Sequence[Change], margin: float, console: Console) -> None:
    """The answer in words, then one row a change, the largest first; then where both came from."""
    console.print(f"[bold]{in_words(found, margin)}[/bold]\n")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Change of the speedup, B over A", title_justify="left")
    for name in ("setting", "arm", "verdict", "A", "B", "change", "interval", "n"):
        table.add_column(
            name, justify="left" if name in ("setting", "arm", "verdict") else "right", no_wrap=name != "setting"
        )
    for c in sorted(found, key=lambda c: VERDICTS.index(c.verdict))[:MOST_ROWS]:
        interval = "" if c.verdict_low is None else f"{c.verdict_low:.3f} to {c.verdict_high:.3f}"
        sides = [
            f"{value:.3f}" if value is not None else escape(verdict or "")
            for value, verdict in ((c.before, c.before_verdict), (c.after, c.after_verdict))
        ]
        change = "" if c.change is None else f"{c.change:.3f}"
        trials = f"{c.before_trials}, {c.after_trials}"
        table.add_row(escape(c.setting), escape(c.arm), c.verdict, *sides, change, interval, trials)
    if len(found) > MOST_ROWS:
        table.caption = f"... and {len(found) - MOST_ROWS} more; --json gives all"
    console.print(table)
    for name, one in (("A", a), ("B", b)):
        where = "; ".join((*one.sweeps, *one.hardware, *one.versions))
        console.print(f"{name}: {escape(', '.join(one.ledgers))} ({escape(where)})", soft_wrap=True)


def main(argv: list[str]) -> int:
    """Run the command: 0, or 1 when `--fail-on` names a verdict that a change has."""
    arguments = parse_arguments("compare", argv)
    fail_on = _fail_on(arguments.options.get("fail-on", ()))

    paths = [to_path(path) for path in arguments.positionals]
    margin, alpha = find_question(paths, arguments.number("margin"), arguments.number("alpha"))
    baseline, metric = arguments.values.get("baseline"), arguments.values.get("metric", "step_seconds")
    a, b = (analyse([path], margin=margin, alpha=alpha, baseline=baseline, metric=metric) for path in paths)
    if a.baseline != b.baseline:
        raise UserError(f"A's baseline is {a.baseline}, B's is {b.baseline}; give baseline=ARM")
    found = changes(a, b, margin, alpha)
    if "json" in arguments.flags:
        report = {"schema_version": 1, "margin": margin, "alpha": alpha, "baseline": a.baseline, "metric": metric}
        report |= {"answer": in_words(found, margin), "changes": plain(found)}
        json.dump(report, sys.stdout, allow_nan=False, indent=1)
        print()
    else:
        print_changes(a, b, found, margin, Console())
    failing = Counter(c.verdict for c in found if c.verdict in fail_on)
    if failing:
        told = ", ".join(f"{count} {verdict}" for verdict, count in failing.items())
        print(f"raybench: --fail-on: {told}", file=sys.stderr)
    return 1 if failing else 0


def _fail_on(given: Sequence[str]) -> frozenset[str]:
    """The verdicts that `--fail-on` names; `hurts` includes `lost`. Raises UserError for an unknown one."""
    names = [name for names in given for name in names.split(",")]
    for name in names:
        if name not in VERDICTS:
            raise UserError(f"--fail-on {name or 'nothing'}: {suggest(name, VERDICTS)}")
    return frozenset([*names, *(["lost"] if "hurts" in names else [])])


if __name__ == "__main__":
    run_command(main)
