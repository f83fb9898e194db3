"""How much machine time legs and trials took, derived from when they began.

Rows are ledger rows as plain values: setting_id, trial_id, environment, started_at, and process_group where known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raybench.ledger.quantities import Row


def legs_a_trial(rows: Sequence[Row]) -> float:
    """The mean number of legs of the rows' trials."""
    return len(rows) / len({row["trial_id"] for row in rows})


@dataclass(frozen=True)
class Times:
    """Machine time of one setting's trials; None where the ledger has too few legs to tell."""

    leg_seconds: float | None  # from one leg's start to the next one's
    trial_seconds: float | None  # from a trial's first leg to the next trial's
    legs: float  # of a trial

    @property
    def start_seconds(self) -> float | None:
        """Seconds of a trial besides its legs: starting the processes."""
        if self.leg_seconds is None or self.trial_seconds is None:
            return None
        return max(0.0, self.trial_seconds - self.legs * self.leg_seconds)

    def of_trial(self, legs: float) -> float | None:
        """Seconds of a trial of `legs` legs."""
        if self.leg_seconds is None or self.start_seconds is None:
            return None
        return self.start_seconds + legs * self.leg_seconds


def machine_times(rows: Iterable[Row]) -> dict[str, Times]:
    """By setting_id of a ledger, how long its legs and trials take, from when the legs began.

    Medians over the gaps between a leg and the next one of the same processes, and between the first legs of a trial
    and of the next one on the same node, so that the pause of a stopped and resumed sweep counts as one odd value.
    """
    ordered = sorted(rows, key=lambda row: row["started_at"])
    own: dict[str, list[Row]] = {}
    leg_gaps: dict[str, list[float]] = {}
    trial_gaps: dict[str, list[float]] = {}
    last: dict[str, Row] = {}  # group of processes -> its latest leg
    first: dict[str, Row] = {}  # node -> the first leg of its current trial
    for row in ordered:
        own.setdefault(row["setting_id"], []).append(row)
        group, node = row.get("process_group") or row["trial_id"], _node(row)
        if group in last:
            leg_gaps.setdefault(last[group]["setting_id"], []).append(seconds_between(last[group], row))
        last[group] = row
        if node in first and first[node]["trial_id"] == row["trial_id"]:
            continue
        if node in first:
            trial_gaps.setdefault(first[node]["setting_id"], []).append(seconds_between(first[node], row))
        first[node] = row
    return {
        setting: Times(_median(leg_gaps.get(setting)), _median(trial_gaps.get(setting)), legs_a_trial(members))
        for setting, members in own.items()
    }


def _node(row: Row) -> str:
    return str(json.loads(row["environment"] or "{}").get("node", ""))


def seconds_between(one: Row, later: Row) -> float:
    """Seconds between the beginnings of two legs."""
    return float((later["started_at"] - one["started_at"]).total_seconds())


def _median(values: list[float] | None) -> float | None:
    return float(np.median(values)) if values else None
