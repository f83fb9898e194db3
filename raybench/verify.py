"""Verify a ledger: its files, its rows, its ids, and every number of the report beside it.

    python -m raybench.verify LEDGER [--set-aside]

Reads only, unless `--set-aside` is given. Ids are recomputed from the space beside the rows, the report's numbers
from the rows themselves.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("verify")

import hashlib
import json
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from raybench.analysis import analyse
from raybench.analysis.comparability import SPELLINGS
from raybench.analysis.stopping import check_looks
from raybench.cli import parse_arguments, run_command
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.errors import DamagedFile, UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import FAILURE_KINDS
from raybench.ledger.quantities import QUANTITIES, Row
from raybench.ledger.reading import ledger_files, scan_file
from raybench.machine.places import machines, read_placement
from raybench.statistics.looks import LOOKS_FILE
from raybench.stores.storage import AnyPath, address, to_path

_MOST_TOLD: Final = 20  # findings of one kind


def main(argv: list[str]) -> int:
    """Verify one ledger. Returns 0 or 1; raises UserError where there is no ledger."""
    arguments = parse_arguments("verify", argv)
    folder = to_path(arguments.positionals[0])
    ledger_files(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is one file; give the folder of a sweep")
    console = Console(soft_wrap=True)
    if "set-aside" in arguments.flags:
        for line in Ledger(folder).set_aside():
            console.print(escape(line))
    damaged, rows = read_all(folder)
    findings = {
        "files": damaged,
        "rows": [*check_rows(rows), *check_placements(rows)],
        "ids": list(check_ids(folder, rows)),
    }
    stored = folder / "_report" / "report.json"
    if stored.is_file():
        findings["report"] = ["not checked: the files come first"] if damaged else list(check_report(folder, stored))
    if (folder / LOOKS_FILE).is_file():
        findings["looks"] = ["not checked: the files come first"] if damaged else check_looks(folder)
    for part, found in findings.items():
        console.print(f"{part:<8}" + ("[red]does not hold[/]" if found else "[green]holds[/]"))
        for line in found[:_MOST_TOLD]:
            console.print(f"        {escape(line)}")
        if len(found) > _MOST_TOLD:
            console.print(f"        ... and {len(found) - _MOST_TOLD} more")
    legs = len({row["leg_id"] for row in rows})
    console.print(f"{legs} legs; " + (f"the report of {stored.parent}" if stored.is_file() else "there is no report"))
    return int(any(findings.values()))


def read_all(folder: AnyPath) -> tuple[list[str], list[Row]]:
    """(a line for each unreadable file, the rows of all others, including repeated legs)."""
    damaged: list[str] = []
    rows: list[Row] = []
    for file in ledger_files(folder):
        try:
            rows += [row for table in scan_file(file) for row in table.to_pylist()]
        except DamagedFile as error:
            damaged.append(str(error))
    return damaged, rows


def check_rows(rows: list[Row]) -> Iterator[str]:
    """A line for each row that cannot be true, and for each leg with two outcomes."""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row["leg_id"], row)
        if not _same(first, row):
            names = [name for name in row if not _same(first.get(name), row[name])]
            yield f"leg {row['leg_id']}: two rows that differ in {', '.join(names)}"
        yield from (f"leg {row['leg_id']}: {problem}" for problem in _problems(row))


def _read_json(name: str, text: str) -> Any:
    """What a column of JSON holds, an object or a list of them; None where it cannot be read."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list if name in ("placement", "telemetry") else dict) else None


def _problems(row: Row) -> Iterator[str]:
    for name, value in row.items():
        if name in QUANTITIES and QUANTITIES[name].json and value is not None and _read_json(name, value) is None:
            yield f"{name} is {value!r:.60}, not JSON of the right kind"
    # Either a largest batch that was not found, or a script whose ranks take unequal shares.
    sought = row["micro_batch"] is None and (row["status"] == "failed" or row["engine"] == "script")
    if not sought and row["global_batch"] != (row["micro_batch"] or 0) * row["accumulation"] * row["workers"]:
        yield "global_batch is not micro_batch x accumulation x workers"
    if row["status"] == "failed":
        if row["failure_kind"] not in FAILURE_KINDS:
            yield f"failure_kind {row['failure_kind']!r} is none of {', '.join(FAILURE_KINDS)}"
        if row["step_seconds"] is not None:
            yield "failed, and yet with step_seconds"
        return
    if row["status"] != "ok":
        yield f"status {row['status']!r} is neither ok nor failed"
        return
    steps, waits = row["step_seconds"] or [], row["data_seconds"] or []
    if not 0 <= (row["warmup_steps"] or 0) < len(steps):
        yield f"{row['warmup_steps']} warm-up steps of {len(steps)}"
    if not all(step is not None and math.isfinite(step) and step > 0 for step in steps):
        yield "a step_seconds that is no positive number"
    if waits and len(waits) != len(steps):
        yield f"{len(waits)} data_seconds beside {len(steps)} step_seconds"
    for name, value in row.items():
        if name in QUANTITIES and not isinstance(value, datetime) and (why := QUANTITIES[name].impossible(value)):
            yield why
    if row["failure_kind"] is not None:
        yield f"ok, and yet with failure_kind {row['failure_kind']!r}"


def check_placements(rows: list[Row]) -> Iterator[str]:
    """A line for each trial whose legs come from several placements, which makes them incomparable."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for row in rows:
        if not row.get("placement"):
            continue
        try:
            one = (row.get("attempt") or 0, machines(read_placement(row["placement"]) or ()))
        except (ValueError, KeyError, TypeError):
            yield f"leg {row['leg_id']}: placement {row['placement']!r:.80} is not valid"
            continue
        places = found.setdefault(row["trial_id"], [])
        places += [one] if one not in places else []
    for trial_id, places in found.items():
        if len(places) > 1:
            told = " and ".join(", ".join(dict.fromkeys(node for node, _ in place)) for _, place in places)
            yield f"trial {trial_id}: its legs were measured at {len(places)} places: {told}"


def check_ids(folder: AnyPath, rows: list[Row]) -> Iterator[str]:
    """A line for each leg whose id does not follow from the space beside the rows."""
    file = folder / "_space.yaml"
    if not file.is_file():
        yield f"{file} is missing, so ids cannot be computed again"
        return
    try:
        _, space = load_space(address(file), large=True, has_run=True)
    except UserError as error:
        yield f"ids cannot be computed again: {error}"
        return
    # More repeats may have been requested later; never more than there are rows, whatever a row claims.
    told = space.most_repeats
    repeats = max([told, *(row["repeat"] + 1 for row in rows if row["repeat"] < told + len(rows))])
    explained = space.explain or any(row.get("profiled") for row in rows)  # may have been requested by another command
    plan = build_plan("space", space.model_copy(update={"repeats": repeats, "explain": explained}))
    planned = {
        leg.leg_id: {
            "setting_id": trial.setting_id,
            "trial_id": trial.trial_id,
            "arm": leg.arm_name,
            "repeat": trial.repeat,
            "round": leg.round,
            "seed": trial.seed,
            "is_baseline": leg.is_baseline,
            "model": leg.setting.model,
            "dataset": leg.setting.dataset,
            "arm_config": _as_built(leg.arm_config()),
        }
        for trial, leg in plan.legs()
    }
    yield from _check_order(plan, rows)
    for row in rows:
        wanted = planned.get(row["leg_id"])
        if wanted is None:
            yield f"leg {row['leg_id']} ({row['setting']}, {row['arm']}): the space has no leg of this id"
            continue
        for name, value in wanted.items():
            found = _as_built(_read_json(name, row[name]) or {}) if name == "arm_config" else row[name]
            if found != value:
                yield f"leg {row['leg_id']}: {name} is {found!r:.80}, but the space gives {value!r:.80}"
    yield from _check_positions(rows, len(space.arms))


def _check_positions(rows: list[Row], num_arms: int) -> Iterator[str]:
    """A line for each leg whose position is outside its round's, or is used twice.

    Which arm is at which position depends on the raybench that ran it, and is not checked.
    """
    places: dict[tuple[str, int], str] = {}
    for row in rows:
        if row["position"] // num_arms != row["round"]:
            yield f"leg {row['leg_id']}: position {row['position']} is not in round {row['round']} of {num_arms} arms"
        if (other := places.setdefault((row["trial_id"], row["position"]), row["leg_id"])) != row["leg_id"]:
            yield f"leg {row['leg_id']}: position {row['position']} of its trial is leg {other}'s too"


def _check_order(plan: Plan, rows: list[Row]) -> Iterator[str]:
    """A line for each trial whose legs are in no counterbalanced order.

    The order for a space has changed between versions; in all of them a round is one block of positions, and every
    second round reverses the one before.
    """
    num_arms = {trial.trial_id: len({leg.arm_name for leg in trial.legs}) for trial in plan.trials}
    places: dict[str, dict[tuple[str, int], int]] = {}
    for row in rows:
        places.setdefault(row["trial_id"], {})[row["arm"], row["round"]] = row["position"]
    leg_ids = {(row["trial_id"], row["arm"], row["round"]): row["leg_id"] for row in rows}
    for trial_id, positions in places.items():
        last = num_arms.get(trial_id, 0) - 1
        for (arm, round_), position in positions.items():
            within = position - round_ * (last + 1)
            before = positions.get((arm, round_ - 1), None) if round_ % 2 else None
            mirrored = before is None or within == last - (before - (round_ - 1) * (last + 1))
            if last >= 0 and not (0 <= within <= last and mirrored):
                yield f"leg {leg_ids[trial_id, arm, round_]}: stands at position {position}, out of order"
        if len(set(positions.values())) < len(positions):
            yield f"trial {trial_id}: two legs stand at one position"


def _as_built(arm_config: dict[str, Any]) -> str:
    """What an arm was built with, whatever the spelling in its space: a DeepSpeed arm's whole config contains it all.

    Options that are off are left out, because rows of earlier versions lack newer options.
    """
    left_out = SPELLINGS if "deepspeed_config" in arm_config else frozenset[str]()
    off = {key for key, value in arm_config.items() if value is None or value is False or value == {}}
    told = {key: value for key, value in arm_config.items() if key not in left_out | off}
    return json.dumps(told, sort_keys=True)


def check_report(folder: AnyPath, stored_file: AnyPath) -> Iterator[str]:
    """A line for each number of a stored report that does not follow from the rows, and for each changed file of it."""
    try:
        stored = json.loads(stored_file.read_text(encoding="utf-8"))
        analysis, hashes = stored["analysis"], dict(stored["sha256"])
        asked = ("margin", "alpha", "multiplicity", "variance", "baseline", "metric", "quality_margin")
        question = {name: analysis[name] for name in asked}
        others = [folder.absolute().parent / name for name in analysis["ledgers"]]  # of a report over several
        found = analyse(
            others if len(others) > 1 else [folder],
            ladder=analysis["chain"],
            pool_hardware=analysis["pool_hardware"],
            **question,
        ).to_json()
    except UserError as error:
        yield f"{stored_file}: cannot be computed again: {error}"
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{stored_file}: not what a report stores ({type(error).__name__}: {error})"
        return
    yield from _differences(analysis | {"ledgers": found["ledgers"]}, found, "")
    for name, digest in hashes.items():
        file = stored_file.parent / name
        if not file.is_file():
            yield f"{file} is missing"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            yield f"{file} is not as it was written"


def _differences(stored: Any, found: Any, place: str) -> Iterator[str]:
    """Where a computed JSON value differs from the stored one; numbers may differ in their last digits.

    Keys added by a later raybench do not count: the stored report lacks them.
    """
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in stored:
            yield from _differences(stored.get(key), found.get(key), f"{place}.{key}" if place else key)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for index, (one, other) in enumerate(zip(stored, found, strict=True)):
            yield from _differences(one, other, f"{place}[{index}]")
    elif not _same(stored, found):
        yield f"{place}: the report says {stored!r:.60}, the rows give {found!r:.60}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


if __name__ == "__main__":
    run_command(main)
