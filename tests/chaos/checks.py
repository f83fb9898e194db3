"""What must hold when a sweep was struck and resumed until it was complete."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raybench.declare.plan import Plan
from raybench.ledger.dataset import Ledger
from raybench.ledger.reading import ledger_files, read_file
from tests.chaos.fake import measurement
from tests.chaos.script import CUTTING, LEG_FAULTS, Script


def check_so_far(ledger: Path, plan: Plan) -> list[dict[str, Any]]:
    """Every row is a planned leg's, each leg has one at most, and a trial ran in one place. Returns the rows.

    Files that a strike left unreadable would be set aside by the next run; there are none unless they were planted.
    """
    rows = [row for file in ledger_files(ledger) for row in read_file(file).to_pylist()] if _has_rows(ledger) else []
    found = [row["leg_id"] for row in rows]
    assert sorted(found) == sorted(set(found))
    assert set(found) <= {leg.leg_id for _, leg in plan.legs()}
    places = defaultdict(set)
    for row in rows:
        places[row["trial_id"]].add((row["attempt"], row["placement"]))
    assert {trial: several for trial, several in places.items() if len(several) > 1} == {}
    return rows


def check_complete(ledger: Path, plan: Plan) -> list[dict[str, Any]]:
    """Every planned leg has exactly one outcome, and what `check_so_far` says. Returns the rows."""
    rows = check_so_far(ledger, plan)
    assert {row["leg_id"] for row in rows} == {leg.leg_id for _, leg in plan.legs()}
    return rows


def _has_rows(ledger: Path) -> bool:
    return bool(Ledger(ledger).leg_ids())


def check_failures(rows: list[dict[str, Any]], script: Script) -> None:
    """Each leg failed as the script says or was measured, but for the few that a strike cut."""
    cut = []
    for row in rows:
        fault = script.legs.get(row["leg_id"])
        if row["failure_kind"] != (LEG_FAULTS[fault.kind] if fault else None):
            assert row["failure_kind"] == "crashed", (row["leg_id"], fault, row["failure_kind"], row["failure_message"])
            cut.append(row["leg_id"])
    assert len(cut) <= sum(blow.kind in CUTTING for run in script.runs for blow in run.blows), cut


def check_measurements(rows: list[dict[str, Any]], plan: Plan) -> None:
    """A faked leg that was measured has the numbers that are its own."""
    legs = {leg.leg_id: leg for _, leg in plan.legs()}
    for row in rows:
        if row["status"] == "ok":
            wanted = measurement(legs[row["leg_id"]])
            for name in ("step_seconds", "data_seconds", "final_loss", "peak_host_bytes"):
                assert row[name] == getattr(wanted, name), (row["leg_id"], name)


def check_nothing_is_left(ledger: Path) -> None:
    """No lock, nothing half written, and nothing of Ray's beside the ledger."""
    assert list(ledger.parent.rglob(".*")) == []


def check_set_aside(ledger: Path) -> None:
    """Rows of trials that began anew are kept, with the reason."""
    for file in (ledger / "_aside").rglob("*.parquet"):
        assert all(pq.read_table(file)["withdrawn"].to_pylist()), file


def as_text(script: Script, told: list[str]) -> str:
    """What to show when something did not hold: the seed, the list, what happened."""
    return "\n".join([f"seed {script.seed}", json.dumps(script.describe(), indent=1), *told])
