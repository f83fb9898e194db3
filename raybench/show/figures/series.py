"""The steps of a few legs, read from the ledger for figures: an example of each arm, and seconds by phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raybench.analysis import Analysis
from raybench.ledger.reading import ledger_files, scan_files
from raybench.show.figures.learning import COLUMNS as LEARNING
from raybench.show.figures.learning import Curve, curves_of
from raybench.stores.storage import AnyPath

PHASES: Final = ("data", "forward", "backward", "optimizer")
MOST_SETTINGS: Final = 6
_TEXTS: Final = ("leg_id", "setting_id", "setting", "trial_id", "arm", "status")


@dataclass(frozen=True)
class Trace:
    """Every step of one leg."""

    arm: str
    setting: str
    step_seconds: np.ndarray
    data_seconds: np.ndarray | None
    warmup_steps: int


@dataclass
class Phases:
    """Mean seconds of an arm's measured steps in a setting; lists with one entry per leg."""

    setting_id: str
    setting: str
    arm: str
    step: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Steps:
    """The result of `read_steps`: traces of the first setting's first trial, phases of the first few settings, and the
    learning curves of one setting."""

    traces: tuple[Trace, ...]
    phases: tuple[Phases, ...]
    curves: tuple[Curve, ...]


def read_steps(paths: Sequence[AnyPath], analysis: Analysis) -> Steps:
    """Read the steps of the first compared settings; of all settings where none was compared."""
    compared = [c.where.setting_id for c in analysis.comparisons if c.speedup.value is not None]
    wanted = list(dict.fromkeys(compared or [c.where.setting_id for c in analysis.comparisons]))[:MOST_SETTINGS]
    lists = ["step_seconds", *(f"{phase}_seconds" for phase in PHASES)]
    files = [file for path in paths for file in ledger_files(path)]
    rows: dict[str, dict[str, Any]] = {}
    for _, table in scan_files(files, [*_TEXTS, "round", "warmup_steps", "profiled", *lists, *LEARNING], 4096):
        chosen = pc.is_in(table["setting_id"], value_set=pa.array(wanted, pa.string()))
        for row in table.filter(pc.and_(chosen, pc.equal(table["status"], "ok"))).to_pylist():
            if not row.get("profiled"):
                rows.setdefault(row["leg_id"], row)
    order = sorted(rows.values(), key=lambda row: (wanted.index(row["setting_id"]), row["trial_id"], row["round"]))
    arms = [analysis.baseline, *dict.fromkeys(c.arm for c in analysis.comparisons)]
    traces = _traces(order, arms)
    return Steps(traces, _phases(order, arms), curves_of(order, arms))


def _traces(rows: list[dict[str, Any]], arms: list[str]) -> tuple[Trace, ...]:
    """Each arm's first leg, in the first of the trials with the most arms."""
    trials: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["arm"] in arms:
            trials.setdefault(row["trial_id"], {}).setdefault(row["arm"], row)
    if not trials:
        return ()
    legs = max(trials.values(), key=len)
    return tuple(
        Trace(
            arm,
            row["setting"] or "",
            np.array(row["step_seconds"], dtype=float),
            None if row["data_seconds"] is None else np.array(row["data_seconds"], dtype=float),
            row["warmup_steps"],
        )
        for arm, row in sorted(legs.items(), key=lambda item: arms.index(item[0]))
    )


def _phases(rows: list[dict[str, Any]], arms: list[str]) -> tuple[Phases, ...]:
    found: dict[tuple[str, str], Phases] = {}
    for row in rows:
        parts: dict[str, Any] = {phase: row.get(f"{phase}_seconds") for phase in PHASES}
        if row["arm"] not in arms or any(values is None for values in parts.values()):
            continue
        one = found.setdefault(
            (row["setting_id"], row["arm"]), Phases(row["setting_id"], row["setting"] or "", row["arm"])
        )
        first = row["warmup_steps"]
        one.step.append(float(np.mean(row["step_seconds"][first:])))
        for phase, values in parts.items():
            one.parts.setdefault(phase, []).append(float(np.mean(values[first:])))
    settings = list(dict.fromkeys(setting for setting, _ in found))
    keys = sorted(found, key=lambda key: (settings.index(key[0]), arms.index(key[1])))
    return tuple(found[key] for key in keys)
