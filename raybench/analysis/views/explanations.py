"""Where an arm's time goes, from its profiled leg: the parts of a step, and what explains the distance to the baseline.

A profiled leg (`profile` in its row) is measured under a profiler, so it explains and never counts in a speedup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raybench.analysis.columns import code_of, parse_object
from raybench.analysis.legs import Legs


@dataclass(frozen=True)
class Explanation:
    """One arm in one setting: a step's seconds by what they were spent on, and in words."""

    setting_id: str
    arm: str
    step_seconds: float  # of the profiled leg, mean of its measured steps
    parts: dict[str, float]  # seconds a step by name, the largest first
    sentence: str


def profiled(legs: Legs) -> np.ndarray:
    """Which legs ran under the profiler, shape (legs,)."""
    profile = legs.text["profile"]
    told = (profile.codes >= 0) & (profile.codes != code_of(profile, ""))
    return np.asarray(told | (legs.number["profiled"] == 1.0))


def explain(legs: Legs, baseline: str) -> tuple[Explanation, ...]:
    """An explanation for each arm and setting with a profiled leg that says parts; of several the first."""
    found: dict[tuple[str, str], tuple[float, dict[str, float]]] = {}
    for row in np.flatnonzero(profiled(legs) & legs.ok):
        key = (legs.text["setting_id"][row], legs.text["arm"][row])
        parts = _parts(legs.text["profile"][row])
        if parts:
            found.setdefault(key, (float(legs.steps.mean_seconds[row]), parts))
    return tuple(
        Explanation(setting_id, arm, seconds, parts, _sentence(arm, baseline, parts, found.get((setting_id, baseline))))
        for (setting_id, arm), (seconds, parts) in found.items()
    )


def _parts(profile: str) -> dict[str, float]:
    parts = parse_object(profile).get("parts")
    if not isinstance(parts, Mapping):
        return {}
    seconds = {str(name): float(value) for name, value in parts.items() if isinstance(value, int | float)}
    return dict(sorted(seconds.items(), key=lambda part: -part[1]))


def _sentence(arm: str, baseline: str, parts: Mapping[str, float], base: tuple[float, dict[str, float]] | None) -> str:
    """What most of the arm's step is, or what most of its distance to the baseline is."""
    if base is None or arm == baseline:
        largest, seconds = next(iter(parts.items()))
        return f"{arm} spends most of a step on {largest}: {1e3 * seconds:,.4g} ms"
    of_base = base[1]
    apart = {name: parts.get(name, 0.0) - of_base.get(name, 0.0) for name in {*parts, *of_base}}
    total = sum(apart.values())
    same_sign = {name: value for name, value in apart.items() if value * total > 0}
    if not same_sign:
        return f"{arm} spends its steps as {baseline} does"
    name = max(sorted(same_sign), key=lambda name: abs(same_sign[name]))
    longer = "longer" if total > 0 else "shorter"
    return (
        f"a step of {arm} takes {1e3 * abs(total):.3g} ms {longer} than one of {baseline}, most of it for {name}: "
        f"{1e3 * abs(same_sign[name]):.3g} ms {'more' if total > 0 else 'less'}"
    )
