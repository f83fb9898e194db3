"""Performance profiles (Dolan and More 2002): how often an arm is within a factor of the best.

A setting in which an arm failed, or was never measured, counts against it: its cost is infinite. Nothing is
dropped. The cost is seconds a sample, the geometric mean of the arm's legs in the setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from raybench.analysis.columns import dense
from raybench.analysis.inference import Floats
from raybench.analysis.legs import Legs
from raybench.analysis.pairs import mean_by

WITHIN: Final = (1.0, 1.01, 1.02, 1.03, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True)
class Profile:
    """One arm on one hardware: `share[i]` of the settings are within a factor `within[i]` of the best arm."""

    arm: str
    hardware: str
    n_settings: int  # settings in which any arm was measured
    within: tuple[float, ...]
    share: tuple[float, ...]


def performance_profiles(legs: Legs, log_cost: Floats) -> tuple[Profile, ...]:
    """The profile of every arm, the baseline included, on each hardware; `log_cost` has shape (legs,)."""
    measured = np.isfinite(log_cost)
    block, arm = dense(legs.hardware.codes, legs.text["setting_id"].codes), legs.text["arm"].codes
    num_arms = int(arm.max()) + 1
    table = mean_by((block * num_arms + arm)[measured], log_cost[measured], (int(block.max()) + 1) * num_arms)
    table = np.where(np.isnan(table), np.inf, table).reshape(-1, num_arms)
    best = table.min(axis=1, keepdims=True)
    hardware = np.zeros(len(table), dtype=np.int64)
    hardware[block] = legs.hardware.codes
    profiles = []
    for machine in np.unique(hardware):
        solved = (hardware == machine) & np.isfinite(best[:, 0])
        if not solved.any():
            continue
        ratios = table[solved] - best[solved]
        for code in np.unique(arm[legs.hardware.codes == machine]):
            # Rounding must not push the best arm out of its own "within a factor 1".
            share = [float(np.mean(ratios[:, code] <= np.log(factor) + 1e-12)) for factor in WITHIN]
            name = legs.text["arm"].names[code]
            profiles.append(Profile(name, legs.hardware.names[machine], int(solved.sum()), WITHIN, tuple(share)))
    return tuple(profiles)
