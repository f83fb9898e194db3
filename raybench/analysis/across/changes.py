"""What changed from one sweep to another, for every arm in every setting that both ledgers hold.

The change is the difference of the mean log ratios (speedups against the baseline), so whatever changed baseline and
arm alike cancels. Trials of two sweeps are independent and may scatter differently: their variances are added, and the
degrees of freedom are those of the smaller sample (Hsu 1938), which is conservative. Welch's test would be a little
sharper, but it is liberal in the tails that Holm uses: simulated, with 4 and 8 trials and five settings without a
change, it claims one in 9 % of sweeps at a nominal 5 %, against 2 % (`tests/analysis/test_compare.py`). The verdict is
about the *change*, by the same rule as any other here (`raybench.statistics.claims`), with each change's own variance.

Beside it stands the raw change of the arm's own time, in which nothing cancels: it includes the machine, its load and
the baseline's libraries, so it has an interval but no verdict. Two ledgers with the same legs did not change, whatever
their scatter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from raybench.analysis.analysis import Analysis
from raybench.analysis.results import Comparison
from raybench.errors import UserError
from raybench.statistics.claims import Rule, judge
from raybench.statistics.estimate import number, ratio
from raybench.statistics.inference import Floats, p_against, t_interval

VERDICTS = (
    "helps", "no effect", "hurts", "undecided", "gained", "lost", "appeared", "disappeared", "not comparable",
    "unchanged",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One arm in one setting, in A and in B; ratios are speedups, `change` is B's over A's."""

    setting_id: str
    setting: str
    arm: str
    verdict: str
    before_verdict: str | None  # in A; None where A lacks the comparison
    after_verdict: str | None
    before: float | None
    after: float | None
    change: float | None
    ci_low: float | None  # level 1 - alpha
    ci_high: float | None
    p_value: float | None  # for no change
    p_adjusted: float | None  # of the claim, over all changes
    verdict_low: float | None  # the interval behind the verdict
    verdict_high: float | None
    before_trials: int
    after_trials: int
    raw_change: float | None  # the arm's own time, A's over B's: above 1 it is faster in B, whatever the baseline does
    raw_low: float | None  # level 1 - alpha
    raw_high: float | None
    same_legs: bool  # both hold exactly the same measured times


def changes(a: Analysis, b: Analysis, margin: float, alpha: float) -> tuple[Change, ...]:
    """Every comparison of either analysis, matched by setting, arm and, where they share any, hardware.

    `margin` is a ratio (0.03 is 3 %). Raises UserError where the hardware leaves the matching ambiguous.
    """
    before, after = _by_key(a, b)
    keys = sorted(before.keys() | after.keys(), key=lambda key: _order(before.get(key) or after[key]))
    numeric = [key for key in keys if _kind(before.get(key), after.get(key)) == "number"]
    times = _times(a), _times(b)
    sides = [
        tuple(
            one[before[key].where.setting_id, key[1], before_or_after[key].where.hardware]
            for one, before_or_after in zip(times, (before, after), strict=True)
        )
        for key in numeric
    ]
    same = [one == other for one, other in sides]
    mean, count, deviation = _as_one_sample(
        _SAME if equal else _difference(before[key], after[key]) for key, equal in zip(numeric, same, strict=True)
    )
    raw, raw_count, raw_deviation = _as_one_sample(
        _SAME if one == other else _raw_difference(one[0], other[0]) for one, other in sides
    )
    raw_low, raw_high = t_interval(raw_count, raw, raw_deviation, alpha)
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
                raw_change=None if i is None else ratio(raw[i]),
                raw_low=None if i is None else ratio(raw_low[i]),
                raw_high=None if i is None else ratio(raw_high[i]),
                same_legs=i is not None and same[i],
            )
        )
    return tuple(result)


_Estimate = tuple[float, float, float]  # (difference of logs, its standard error, degrees of freedom)
_SAME: Final[_Estimate] = (0.0, 0.0, 1.0)
_Logs = tuple[float, ...]  # an arm's times, one per trial


def _as_one_sample(estimates: Iterable[_Estimate]) -> tuple[Floats, Floats, Floats]:
    """Means, counts and deviations of samples with the degrees of freedom and errors of these estimates."""
    columns = np.array(list(estimates), dtype=float).reshape(-1, 3)
    count = np.where(np.isfinite(columns[:, 2]), columns[:, 2] + 1, 1.0)
    return columns[:, 0], count, columns[:, 1] * np.sqrt(count)


def _times(analysis: Analysis) -> dict[tuple[str, str, str], tuple[_Logs, _Logs]]:
    """By setting, arm and hardware: the logs of the arm's and of the baseline's times, one per trial."""
    pairs, text = analysis.pairs, analysis.pairs.legs.text
    found = {}
    for k, leg in enumerate(pairs.example):
        rows = slice(int(pairs.starts[k]), int(pairs.starts[k] + pairs.counts[k]))
        key = text["setting_id"][leg], text["arm"][leg], pairs.legs.hardware[leg]
        found[key] = tuple(pairs.log_arm[rows].tolist()), tuple(pairs.log_base[rows].tolist())
    return found


def _raw_difference(before: _Logs, after: _Logs) -> _Estimate:
    """The estimate for the arm's own time, A's over B's; without an error below 2 trials a side."""
    difference = float(np.mean(before) - np.mean(after))
    if min(len(before), len(after)) < 2:
        return difference, float("nan"), float("nan")
    variance = np.var(before, ddof=1) / len(before) + np.var(after, ddof=1) / len(after)
    return difference, float(np.sqrt(variance)), min(len(before), len(after)) - 1.0


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
    """`number` where the change has a value, else the verdict that says what changed."""
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
    """Whether the arm itself ran, whatever happened to the baseline."""
    return bool(c.n_trials) or all(cause.arm != c.arm for cause in c.failure_causes)


def _difference(before: Comparison, after: Comparison) -> _Estimate:
    """(difference of log speedups, its standard error, degrees of freedom); nan below 2 trials a side."""
    assert before.speedup.value is not None
    assert after.speedup.value is not None
    difference = float(np.log(after.speedup.value / before.speedup.value))
    if before.judgement.deviation is None or after.judgement.deviation is None:
        return difference, float("nan"), float("nan")
    variance = before.judgement.deviation**2 / before.n_trials + after.judgement.deviation**2 / after.n_trials
    return difference, float(np.sqrt(variance)), min(before.n_trials, after.n_trials) - 1.0
