"""How long a plan takes: from earlier legs like its own on this machine, else from a calibration.

Nothing is guessed: legs without a measured counterpart here have no time, and the estimate says how many there are.
No ray, torch or mlflow here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import TypeAdapter, ValidationError

from raybench.calibration.detection import calibrated_seconds
from raybench.calibration.times import seconds_between
from raybench.declare.blocks import Pace, num_starts
from raybench.declare.plan import Plan, Trial
from raybench.declare.protocol import INSTRUMENTS, Protocol
from raybench.errors import UserError
from raybench.ledger.quantities import Row, own_seconds
from raybench.machine.fingerprint import Fingerprint, fingerprint, this_machine
from raybench.stores.storage import AnyPath, files_below

_COLUMNS = [
    "setting_id", "trial_id", "arm", "status", "protocol", "environment", "started_at", "process_group",
    "setup_seconds", "train_seconds", "eval_seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Seconds of machine time of a plan's legs with a measured counterpart, with the starts of their trials' processes.

    Machine time counts each node of a trial: two nodes for a minute are two minutes.
    """

    seconds: float
    num_known: int  # legs
    num_legs: int
    source: str  # its basis, in words

    @property
    def is_whole(self) -> bool:
        return self.num_known == self.num_legs


def estimate(plan: Plan, results: AnyPath, *, elsewhere: bool = False) -> Estimate:
    """The machine time of a plan on this machine, from the ledgers below `results` or a calibration there.

    `elsewhere`: the plan runs on other machines, a cluster's, which are assumed to be those of the newest leg like its
    own. Raises UserError for an unreadable calibration; damaged ledgers are skipped here, and `verify` reports them.
    """
    from_ledgers = _from_ledgers(plan, _rows(plan, results, elsewhere), elsewhere)
    if from_ledgers.is_whole or elsewhere:
        return from_ledgers
    seconds = calibrated_seconds(plan, results)
    if seconds is None:
        return from_ledgers
    legs = len(plan.legs())
    return Estimate(seconds, legs, legs, "every arm taken to be as fast as the baseline in the calibration")


def known_pace(plan: Plan, results: AnyPath, *, elsewhere: bool = False) -> Pace:
    """How long legs like the plan's, and starts of processes, took on this machine (or, `elsewhere`, on that of the
    newest such leg), from the ledgers below `results`."""
    return _pace(_rows(plan, results, elsewhere))


def _pace(rows: Sequence[Row]) -> Pace:
    groups = _groups(rows)
    starts = _start_seconds(groups)
    return Pace(_leg_seconds(groups), median(starts) if starts else None)


def _rows(plan: Plan, results: AnyPath, elsewhere: bool) -> list[Row]:
    """The rows like a leg of the plan, from one kind of machine: this one, or that of the newest such leg."""
    like = list(_like(plan, results))
    machine = this_machine(with_gpu=plan.trials[0].setting.device != "cpu")
    if elsewhere and like:
        machine = _machine(max(like, key=lambda row: row["started_at"]))
    return [row for row in like if _machine(row) == machine]


def _machine(row: Row) -> Fingerprint:
    return fingerprint(json.loads(row["environment"]))


def _like(plan: Plan, results: AnyPath) -> Iterator[Row]:
    """The ledger rows of any machine that match a leg of the plan: its setting, under its protocol."""
    wanted = {trial.setting_id: _essence(trial.protocol) for trial in plan.trials}
    folders = dict.fromkeys(file.parent for names, file in files_below(results, "*.parquet") if len(names) == 3)
    if not folders:
        return
    from raybench.ledger.reading import read_ledger  # pyarrow, which a first plan does not need

    for folder in folders:
        try:
            rows = read_ledger(folder, _COLUMNS).to_pylist()
        except UserError:
            continue  # from another sweep than the requested one; raybench.verify reports the problem
        for row in rows:
            if row["setting_id"] in wanted and _followed(row["protocol"]) == wanted[row["setting_id"]]:
                yield row


def _followed(protocol: str | None) -> Protocol | None:
    """The essence of the protocol of a row's leg; None where it is unknown or from another version of raybench."""
    try:
        return _essence(TypeAdapter(Protocol).validate_json(protocol or "null"))
    except ValidationError:
        return None


def _essence(protocol: Protocol) -> Protocol:
    """The parts of a protocol that decide a leg's duration: not the number of rounds, and hardly the instruments."""
    return protocol.model_copy(update={**dict.fromkeys(INSTRUMENTS, False), "rounds": 1})


def _from_ledgers(plan: Plan, rows: Sequence[Row], elsewhere: bool) -> Estimate:
    legs = plan.legs()
    if not rows:
        return Estimate(0.0, 0, len(legs), f"no ledger here holds such legs{'' if elsewhere else ' of this machine'}")
    where = _in_words(_machine(rows[0])) if elsewhere else "this machine"
    groups = _groups(rows)
    seconds, starts = _leg_seconds(groups), _start_seconds(groups)
    parts = num_starts(list({trial.trial_id: trial for trial, _ in legs}.values()), 1, _pace(rows))
    known = [(trial, seconds[key]) for trial, leg in legs if (key := (trial.setting_id, leg.arm_name)) in seconds]
    total = sum(trial.num_nodes_taken * each for trial, each in known)
    total += (median(starts) if starts else 0.0) * _num_starts(known, parts)
    without = "" if starts else ", the start of processes left out"
    return Estimate(total, len(known), len(legs), f"as {len(rows)} legs took on {where} before{without}")


def _in_words(machine: Fingerprint) -> str:
    """A kind of machine in a few words."""
    return f"machines with {machine['gpu'] or machine['cpu']}"


def _num_starts(known: Sequence[tuple[Trial, float]], parts: Mapping[str, float]) -> float:
    """How often a machine starts processes for these legs; `parts`: each trial's starts."""
    trials = {trial.trial_id: trial for trial, _ in known}.values()
    return sum(trial.num_nodes_taken * parts[trial.trial_id] for trial in trials)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each group of processes in leg order; the groups in the order in which they began."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["started_at"]):
        groups[row["process_group"] or row["trial_id"]].append(row)
    return list(groups.values())


def _leg_seconds(groups: Sequence[Sequence[Row]]) -> dict[tuple[str, str], float]:
    """(setting_id, arm) -> median seconds of a leg: until its processes' next leg began, else the sum of its parts."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for group in groups:
        for row, following in zip(group, [*group[1:], None], strict=True):
            taken = seconds_between(row, following) if following is not None else _parts(row)
            if taken is not None:
                found[row["setting_id"], row["arm"]].append(taken)
    return {key: median(several) for key, several in found.items()}


def _start_seconds(groups: Sequence[Sequence[Row]]) -> list[float]:
    """Seconds between the end of a group's last leg and the first leg of the next group on the same node."""
    starts = []
    last: dict[str, Row] = {}
    for group in groups:
        node = str(json.loads(group[0]["environment"]).get("node", ""))
        parts = _parts(last[node]) if node in last else None
        if parts is not None:
            starts.append(max(0.0, seconds_between(last[node], group[0]) - parts))
        last[node] = group[-1]
    return starts


def _parts(row: Row) -> float | None:
    """Seconds of a leg by its own columns; None for a failure, which has none."""
    if row["status"] != "ok":
        return None
    return own_seconds(row)
