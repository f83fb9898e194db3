"""A calibration: what an A/A ledger shows about a machine, and what sweeps on that machine can detect.

`read_calibration` makes it from the ledgers of `python -m raybench.calibrate`. It is stored beside them as
`_calibration.json`, where `python -m raybench.plan` looks for one of the same machine (`find_noise`). Deviations
are of log seconds (0.01 is about 1 %), a price is a ratio minus 1. No ray, torch or mlflow here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from raybench.analysis.analysis import analyse
from raybench.analysis.arrays import hardware_of
from raybench.analysis.results import Comparison
from raybench.calibration.times import Times, legs_a_trial, machine_times
from raybench.calibration.variance import Components, Isolation, Spread, compare_isolation, read_rounds, spread
from raybench.ledger.quantities import Row
from raybench.ledger.reading import read_ledger
from raybench.machine.fingerprint import Fingerprint, fingerprint
from raybench.statistics.estimate import plain
from raybench.statistics.power import chances, detectable_effect
from raybench.stores.storage import AnyPath, write_whole

FILE: Final = "_calibration.json"
SCHEMA_VERSION: Final = 1
TRIALS: Final = (3, 5, 8, 12, 20)
_COLUMNS: Final = [
    "setting_id", "setting", "trial_id", "arm", "round", "repeat", "status", "step_seconds", "warmup_steps",
    "environment", "process_group", "started_at", "protocol",
]  # fmt: skip


@dataclass(frozen=True)
class Outlook:
    """What `trials` trials of a setting can detect with the calibrated noise."""

    trials: int
    false_verdict: float  # chance that an arm without any effect is judged `helps` or `hurts`, as a single comparison
    no_effect: float  # chance that it is judged `no effect`
    detectable: float  # smallest true speedup (above 1) judged `helps` with 80 % power
    machine_seconds: float | None  # of the space's arms, assuming that each takes as long as the baseline


@dataclass(frozen=True)
class Instrument:
    """An instrument's cost: the step's seconds with it over those without it, minus 1, and the 95 % interval."""

    name: str
    price: float | None
    low: float | None
    high: float | None
    n_trials: int


@dataclass(frozen=True)
class SettingNoise:
    """One setting on one machine."""

    setting_id: str
    setting: str
    machine: Fingerprint
    protocol: dict[str, Any]
    n_trials: int
    scatter: Spread | None  # of a trial's log ratio; None with fewer than two trials
    components: Components
    speedup: float | None  # of the baseline over itself
    ci_low: float | None
    ci_high: float | None
    verdict: str
    leg_seconds: float | None  # from one leg's start to the next one's
    start_seconds: float | None  # of a trial, besides its legs: starting the processes
    outlook: tuple[Outlook, ...]
    instruments: tuple[Instrument, ...]
    isolation: Isolation | None
    failures: int


@dataclass(frozen=True)
class Calibration:
    """The results of `python -m raybench.calibrate`."""

    space: str
    baseline: str
    margin: float
    alpha: float
    num_arms: int  # of the space, for the machine time
    rounds: int
    settings: tuple[SettingNoise, ...]
    ledgers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and None."""
        return {"schema_version": SCHEMA_VERSION, **plain(self)}

    def write(self, folder: AnyPath) -> AnyPath:
        """Write `_calibration.json` into a folder, whole or not at all; returns its path."""
        path = folder / FILE
        write_whole(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        return path


def read_calibration(
    folder: AnyPath,
    *,
    space: str,
    baseline: str,
    again: str,
    instruments: Mapping[str, str],
    num_arms: int,
    rounds: int,
    fresh: AnyPath | None = None,
) -> Calibration:
    """The calibration from the ledger in `folder`; the ledger in `fresh` has the same trials with processes per leg.

    `again` is the baseline's other name, `instruments` the arm without each instrument. Raises UserError as reading
    ledgers does.
    """
    analysis = analyse([folder])
    rows = _by_place(folder)
    fresh_rows = _by_place(fresh) if fresh else {}
    times, fresh_times = (machine_times(itertools.chain(*places.values())) for places in (rows, fresh_rows))
    twins = {(c.where.setting_id, c.where.hardware, c.arm): c for c in analysis.comparisons}
    settings = []
    for (setting_id, hardware, arm), twin in twins.items():
        if arm != again:
            continue
        own = rows[setting_id, hardware]
        took = times[setting_id]
        found = read_rounds(own, baseline, again)
        scatter = spread([found.of_trials(found.difference)])
        costs = [
            _price(name, twins.get((setting_id, hardware, without)), analysis.alpha)
            for name, without in instruments.items()
        ]
        settings.append(
            SettingNoise(
                setting_id=setting_id,
                setting=twin.where.setting,
                machine=fingerprint(json.loads(own[0]["environment"] or "{}")),
                protocol=json.loads(own[0].get("protocol") or "{}"),
                n_trials=twin.n_trials,
                scatter=scatter,
                components=found.components(),
                speedup=twin.speedup.value,
                ci_low=twin.speedup.low,
                ci_high=twin.speedup.high,
                verdict=twin.verdict,
                leg_seconds=took.leg_seconds,
                start_seconds=took.start_seconds,
                outlook=outlook(
                    scatter,
                    margin=analysis.margin,
                    alpha=analysis.alpha,
                    trial_seconds=took.of_trial(num_arms * rounds),
                ),
                instruments=tuple(costs),
                isolation=_isolation(
                    own, fresh_rows.get((setting_id, hardware), []), took, fresh_times.get(setting_id), baseline, again
                ),
                failures=sum(row["status"] != "ok" for row in own),
            )
        )
    return Calibration(
        space, baseline, analysis.margin, analysis.alpha, num_arms, rounds, tuple(settings),
        tuple(str(one) for one in (folder, fresh) if one),
    )  # fmt: skip


def _by_place(folder: AnyPath) -> dict[tuple[str, str], list[Row]]:
    """A ledger's rows by setting and hardware; rows without hardware are grouped with those that have it."""
    rows = read_ledger(folder, _COLUMNS).to_pylist()
    stated = [hardware_of(json.loads(row["environment"] or "{}")) for row in rows]
    where = {row["trial_id"]: hardware for row, hardware in zip(rows, stated, strict=True) if hardware}
    places: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["status"] == "failed"):
        places.setdefault((row["setting_id"], where.get(row["trial_id"], "")), []).append(row)
    return places


def _price(name: str, without: Comparison | None, alpha: float) -> Instrument:
    """Compares the arm without the instrument with the baseline: its speedup is the instrument's price."""
    if without is None or without.speedup.value is None:
        return Instrument(name, None, None, None, 0)
    low, high = (None if end is None else end - 1 for end in (without.speedup.low, without.speedup.high))
    return Instrument(name, without.speedup.value - 1, low, high, without.n_trials)


def _isolation(
    shared: Sequence[Row], fresh: Sequence[Row], times: Times, fresh_times: Times | None, baseline: str, again: str
) -> Isolation | None:
    """Compares both kinds of trial with two arms each: the instruments' legs are not counted."""
    if fresh_times is None:
        return None
    ours = [row for row in shared if row["arm"] in (baseline, again)]
    seconds, fresh_seconds = times.of_trial(legs_a_trial(ours)), fresh_times.trial_seconds
    one, other = (
        spread([rounds.of_trials(rounds.difference)])
        for rounds in (read_rounds(rows, baseline, again) for rows in (shared, fresh))
    )
    if one is None or other is None or not one.deviation or not other.deviation or not seconds or not fresh_seconds:
        return None
    return compare_isolation(one, other, seconds, fresh_seconds)


def outlook(
    scatter: Spread | None, *, margin: float, alpha: float, trial_seconds: float | None, trials: Sequence[int] = TRIALS
) -> tuple[Outlook, ...]:
    """What these numbers of trials detect in a setting with this scatter; empty if unknown. `margin` is a ratio."""
    if scatter is None:
        return ()
    log_margin, deviation = float(np.log1p(margin)), scatter.deviation
    seen = {n: chances(n, deviation, margin=log_margin, level=alpha) for n in trials}
    return tuple(
        Outlook(
            n,
            none.helps + none.hurts,
            none.no_effect,
            detectable_effect(n, deviation, margin=log_margin, level=alpha),
            None if trial_seconds is None else n * trial_seconds,
        )
        for n, none in seen.items()
    )
