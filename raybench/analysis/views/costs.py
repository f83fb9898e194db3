"""Where the machines' time went, from the ledger's timestamps: steps, set-up, starts, and the cost of each verdict.

A leg occupies the machines of its placement from `started_at` for its set-up, steps and evaluation. The time between
two legs of a machine is a start of processes if the legs belong to different sets of processes; if the earlier leg
failed, it belongs to that failure. A gap of over 15 minutes is not counted: the sweep stood still. Legs that overlap
share their machine's time. The start before a machine's first leg is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from raybench.analysis.arrays import Coded, code_of, dense, parse_array, parse_object, rows_by_group
from raybench.analysis.legs import Legs
from raybench.statistics.inference import Floats, Integers

LONGEST_GAP_SECONDS: Final = 900.0


@dataclass(frozen=True)
class VerdictCost:
    """The cost of one comparison: the legs of its arm, and its share of the baseline's."""

    setting_id: str
    setting: str
    arm: str
    machine_seconds: float
    energy_joules: float | None  # of the measured steps; None where no leg has a reading


@dataclass(frozen=True)
class Costs:
    """Seconds of the sweep's machines, summed: two machines for an hour are two hours."""

    wall_seconds: float
    step_seconds: float  # all steps, warm-up included
    measured_seconds: float
    warmup_seconds: float
    setup_seconds: float
    start_seconds: float  # between sets of processes
    measured_share: float | None  # of the wall time; None where that is 0
    eval_seconds: float
    failed_seconds: float  # from the start of each failed leg to the next leg
    between_seconds: float  # between legs of one set of processes: models, facts, hashes, checks, tear-down, rows
    num_between: int  # number of such gaps
    num_machines: int
    energy_joules: float | None  # of the GPUs in the measured steps, where it was read
    block_starts: tuple[float, ...]  # seconds from Ray Tune's choice of a block to its first leg, in order of time
    verdicts: tuple[VerdictCost, ...]


def account(legs: Legs, baseline: str) -> Costs:
    """The costs of all legs that have a `started_at`."""
    legs = legs.take(np.flatnonzero(np.isfinite(legs.number["started_at"])))
    number = {name: np.nan_to_num(values) for name, values in legs.number.items()}
    measured = np.nan_to_num(legs.steps.mean_seconds * (legs.steps.num_steps - legs.number["warmup_steps"]))
    parts = {
        "setup_seconds": number["setup_seconds"],
        "step_seconds": number["train_seconds"],
        "measured_seconds": measured,
        "warmup_seconds": np.maximum(number["train_seconds"] - measured, 0.0),
        "eval_seconds": number["eval_seconds"],
    }
    for values in parts.values():
        values[~legs.ok] = 0.0
    busy = parts["setup_seconds"] + parts["step_seconds"] + parts["eval_seconds"]
    totals = dict.fromkeys([*parts, "start_seconds", "failed_seconds", "between_seconds"], 0.0)
    of_leg = np.zeros(len(legs))
    begin, group, num_machines, num_between = number["started_at"], _process_groups(legs), 0, 0
    for rows in _legs_of_machines(legs):
        num_machines += 1
        gaps, share = _timeline(begin[rows], busy[rows])
        for name, values in parts.items():
            totals[name] += float(values[rows].sum()) * share
        after_failure = np.concatenate([[False], ~legs.ok[rows[:-1]]])
        new_processes = np.concatenate([[False], np.diff(group[rows]) != 0])
        totals["failed_seconds"] += float(gaps[after_failure].sum())
        totals["start_seconds"] += float(gaps[~after_failure & new_processes].sum())
        totals["between_seconds"] += float(gaps[~after_failure & ~new_processes].sum())
        num_between += int((gaps[~after_failure & ~new_processes] > 0).sum())
        np.add.at(of_leg, rows, busy[rows] * share + gaps)
    wall = float(of_leg.sum())
    share_measured = totals["measured_seconds"] / wall if wall else None
    energy = legs.number["energy_joules"]
    starts = legs.number["start_seconds"][np.argsort(begin, kind="stable")]
    return Costs(
        wall_seconds=wall,
        measured_share=share_measured,
        num_machines=num_machines,
        num_between=num_between,
        energy_joules=_known_sum(energy),
        block_starts=tuple(starts[np.isfinite(starts)].tolist()),
        verdicts=tuple(_verdicts(legs, of_leg, baseline)),
        **totals,
    )


def _timeline(begin: Floats, busy: Floats) -> tuple[Floats, float]:
    """For one machine's legs in order: (idle seconds that count before each leg, each leg's share of its time).

    The share is 1 where no legs overlap.
    """
    end = begin + busy
    covered = np.concatenate([begin[:1], np.maximum.accumulate(end)[:-1]])  # when the earlier legs end
    gaps = np.maximum(begin - covered, 0.0)
    gaps[gaps > LONGEST_GAP_SECONDS] = 0.0
    occupied = np.maximum(end - np.maximum(begin, covered), 0.0).sum()
    return gaps, float(occupied / busy.sum()) if busy.sum() else 1.0


def _legs_of_machines(legs: Legs) -> Iterator[Integers]:
    """The rows of each machine's legs in time order, per sweep; a leg on two nodes belongs to both."""
    machines: dict[str, int] = {}
    of_text: dict[str, Coded] = {name: legs.text[name] for name in ("placement", "environment")}
    nodes_of_placement = [_codes(_placed(name), machines) for name in of_text["placement"].names]
    nodes_of_environment = [_codes(_stated(name), machines) for name in of_text["environment"].names]
    unknown = _codes([""], machines)
    rows: list[int] = []
    nodes: list[int] = []
    for row, (placed, stated) in enumerate(zip(of_text["placement"].codes, of_text["environment"].codes, strict=True)):
        found = nodes_of_placement[placed] if placed >= 0 else []
        found = found or (nodes_of_environment[stated] if stated >= 0 else []) or unknown
        rows += [row] * len(found)
        nodes += found
    leg_rows, node_codes = np.array(rows, dtype=np.int64), np.array(nodes, dtype=np.int64)
    if not len(leg_rows):
        return
    sweep = dense(legs.text["space"].codes, legs.text["sweep"].codes)[leg_rows]
    machine = dense(sweep, node_codes)
    order = np.lexsort([legs.number["started_at"][leg_rows], machine])
    bounds = np.flatnonzero(np.diff(machine[order])) + 1
    for part in np.split(order, bounds):
        yield leg_rows[part]


def _codes(nodes: list[str], machines: dict[str, int]) -> list[int]:
    return [machines.setdefault(node, len(machines)) for node in dict.fromkeys(nodes)]


def _placed(placement: str) -> list[str]:
    return [str(place["node"]) for place in parse_array(placement) if isinstance(place, dict) and "node" in place]


def _stated(environment: str) -> list[str]:
    found = parse_object(environment)
    nodes = found.get("nodes") or [found.get("node")]
    return [str(node) for node in nodes if node] if isinstance(nodes, list) else []


def _process_groups(legs: Legs) -> Integers:
    """A code for each set of processes; where a ledger does not name them, each trial had its own."""
    group, trial = legs.text["process_group"], legs.text["trial_id"]
    named = (group.codes >= 0) & (group.codes != code_of(group, ""))
    return dense(np.where(named, group.codes, -1), np.where(named, -1, trial.codes))


def _verdicts(legs: Legs, of_leg: Floats, baseline: str) -> Iterator[VerdictCost]:
    """Every arm other than the baseline in every setting; the baseline's legs are shared between the arms."""
    setting, arm = legs.text["setting_id"], legs.text["arm"]
    is_baseline = arm.codes == code_of(arm, baseline)
    energy = legs.number["energy_joules"]
    for here in rows_by_group(setting.codes):
        arms = np.unique(arm.codes[here[~is_baseline[here]]])
        for arm_code in arms:
            own, shared = here[arm.codes[here] == arm_code], here[is_baseline[here]]
            joules = [_known_sum(energy[own]), _known_sum(energy[shared])]
            yield VerdictCost(
                setting_id=setting[here[0]],
                setting=legs.text["setting"][here[0]],
                arm=arm.names[arm_code],
                machine_seconds=float(of_leg[own].sum() + of_leg[shared].sum() / len(arms)),
                energy_joules=None if joules[0] is None else joules[0] + (joules[1] or 0.0) / len(arms),
            )


def _known_sum(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.sum()) if len(known) else None
