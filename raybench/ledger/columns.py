"""A ledger's columns as an Arrow schema, version 1, and how a leg fills them (`quantities.py` declares them).

The format is open: pyarrow, pandas, polars or DuckDB alone can read it. It holds raw values only: `raybench.analysis`
derives every mean and percentile.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.ledger.quantities import CIRCUMSTANCES, MEASURED, QUANTITIES, Quantity, Row

if TYPE_CHECKING:
    from raybench.declare.plan import Leg, Trial

SCHEMA_VERSION = 1


def _arrow(quantity: Quantity) -> pa.Field:
    kind = quantity.type
    if kind.startswith("list<"):
        arrow = pa.list_(pa.type_for_alias(kind.removeprefix("list<").removesuffix(">")))
    else:
        arrow = pa.timestamp("us", tz="UTC") if kind.startswith("timestamp") else pa.type_for_alias(kind)
    return pa.field(quantity.name, arrow, nullable=quantity.name != "schema_version")


# The columns that version 1 promises, and those that a reader must be able to do without.
CONTRACT = pa.schema([_arrow(quantity) for quantity in QUANTITIES.values() if quantity.contract])
EXTRA = pa.schema([_arrow(quantity) for quantity in QUANTITIES.values() if not quantity.contract])
SCHEMA = pa.schema([*CONTRACT, *EXTRA])


def _batch(leg: Leg, outcome: Outcome) -> dict[str, int | None]:
    """The batch columns: from the setting, from the search for the largest batch, or as a script reports them."""
    setting = leg.setting
    accumulation, workers = setting.accumulation, setting.workers
    micro_batch: int | None
    if leg.arm.engine == "script" and isinstance(outcome, Measurement):
        accumulation = _count(outcome.facts.get("accumulation"), accumulation)
        workers = _count(outcome.facts.get("workers"), workers)
        whole_micro_batch, rest = divmod(outcome.samples_per_step, accumulation * workers)
        micro_batch = None if rest else whole_micro_batch
    elif setting.batch_size == "max":
        micro_batch = outcome.batch_probes.micro_batch if outcome.batch_probes else None
    else:
        micro_batch = setting.micro_batch
    whole = None if micro_batch is None else micro_batch * accumulation * workers
    return {"global_batch": whole, "micro_batch": micro_batch, "accumulation": accumulation, "workers": workers}


def _count(value: object, usual: int) -> int:
    return value if isinstance(value, int) and 0 < value < 2**31 else usual


def build_row(sweep: str, space: str, trial: Trial, leg: Leg, outcome: Outcome) -> Row:
    """One ledger row: the leg's plan and its outcome."""
    setting, arm = leg.setting, leg.arm
    batch = _batch(leg, outcome)
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {
        "schema_version": SCHEMA_VERSION,
        "sweep": sweep,
        "space": space,
        "setting_id": trial.setting_id,
        "trial_id": trial.trial_id,
        "leg_id": leg.leg_id,
        "setting": trial.label,
        "model": setting.model,
        "family": trial.family,
        "dataset": setting.dataset,
        "task": setting.task,
        "packages": arm.packages or None,
        "sequence_length": setting.sequence_length,
        "tokens_per_step": None
        if batch["global_batch"] is None or setting.sequence_length is None
        else batch["global_batch"] * setting.sequence_length,
        "precision": setting.precision,
        **batch,
        "arm": leg.arm_name,
        "engine": arm.engine,
        "arm_config": leg.arm_config(),
        "is_baseline": leg.is_baseline,
        "repeat": trial.repeat,
        "round": leg.round,
        "position": leg.position,
        "seed": trial.seed,
        "protocol": trial.as_measured(leg).protocol.model_dump(mode="json"),
        "differs": list(trial.differs),
        "slots_per_node": trial.slots_per_node,
        "profiled": leg.profiled,
        **{quantity.name: getattr(outcome, quantity.name) for quantity in CIRCUMSTANCES},
        "started_at": datetime.fromtimestamp(outcome.started_at, tz=UTC),
    }
    match outcome:
        case Failure(kind=kind, message=message):
            row |= {"status": "failed", "failure_kind": kind, "failure_message": message}
        case Measurement():
            row["status"] = "ok"
            row |= {quantity.name: getattr(outcome, quantity.name) for quantity in MEASURED}
    for name, quantity in QUANTITIES.items():
        if quantity.json and row[name] is not None:
            row[name] = json.dumps(row[name], sort_keys=True, default=asdict)
    return row
