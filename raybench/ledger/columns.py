"""The columns of a ledger, version 1, and what of a leg goes into which.

An open format: pyarrow, pandas, polars or DuckDB alone read it. Raw values only: every mean and percentile is derived
by `raybench.analysis`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raybench.outcome import Failure, Measurement, Outcome

if TYPE_CHECKING:
    from raybench.plan import Leg, Trial

SCHEMA_VERSION = 1
_FLOATS = pa.list_(pa.float64())

# The columns that version 1 promises; a reader may rely on each of them.
CONTRACT = pa.schema(
    [
        pa.field("schema_version", pa.int32(), nullable=False),
        ("sweep", pa.string()),
        ("space", pa.string()),
        ("setting_id", pa.string()),
        ("trial_id", pa.string()),
        ("leg_id", pa.string()),
        ("setting", pa.string()),
        ("model", pa.string()),
        ("family", pa.string()),
        ("dataset", pa.string()),
        ("precision", pa.string()),
        ("global_batch", pa.int32()),
        ("micro_batch", pa.int32()),
        ("accumulation", pa.int32()),
        ("workers", pa.int32()),
        ("arm", pa.string()),
        ("engine", pa.string()),
        ("arm_config", pa.string()),
        ("is_baseline", pa.bool_()),
        ("repeat", pa.int32()),
        ("round", pa.int32()),
        ("position", pa.int32()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("failure_kind", pa.string()),
        ("failure_message", pa.string()),
        ("step_seconds", _FLOATS),
        ("warmup_steps", pa.int32()),
        ("data_seconds", _FLOATS),
        ("samples_per_step", pa.int32()),
        ("peak_device_bytes", pa.int64()),
        ("peak_host_bytes", pa.int64()),
        ("setup_seconds", pa.float64()),
        ("train_seconds", pa.float64()),
        ("eval_seconds", pa.float64()),
        ("first_loss", pa.float64()),
        ("final_loss", pa.float64()),
        ("accuracy", pa.float64()),
        ("facts", pa.string()),
        ("environment", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
    ]
)
# What raybench writes beyond the contract; a reader must do without them.
EXTRA = pa.schema(
    [
        ("protocol", pa.string()),  # JSON: the protocol that the leg followed
        ("differs", pa.list_(pa.string())),  # what the space declares the arms to differ in
        ("forward_seconds", _FLOATS),
        ("backward_seconds", _FLOATS),
        ("optimizer_seconds", _FLOATS),
        ("steady_from_step", pa.int32()),  # first step of the last steady segment
        ("step_losses", _FLOATS),  # of every step, the mean over ranks and micro-batches
        ("epoch_seconds", _FLOATS),  # training alone; null without epochs
        ("epoch_accuracy", _FLOATS),  # null for an epoch that was not evaluated
        ("epoch_loss", _FLOATS),  # of the test samples, in the same way
        ("accuracy_top5", pa.float64()),
        ("eval_loss", pa.float64()),  # mean cross entropy over the test samples
        ("process_group", pa.string()),  # the fresh set of processes that ran the leg
        ("peak_host_bytes_sum", pa.int64()),  # the ranks' peaks added up
        ("peak_device_reserved_bytes", pa.int64()),
        ("allocation_retries", pa.int32()),
        ("memory_parts", pa.string()),  # JSON: bytes by what they hold, a value a rank
        ("skipped_steps", pa.int32()),  # optimizer steps passed over for an overflow, in the whole leg
        ("batch_probes", pa.string()),  # JSON: how the largest batch was found, where the setting asks for it
        ("telemetry", pa.string()),  # JSON: a reading for each node
        ("energy_joules", pa.float64()),  # of all GPUs, in the measured steps
        ("foreign_cpu_cores", pa.float64()),  # busy with something else than the trial
        ("contaminated", pa.list_(pa.string())),  # why; empty where clean, null where not known
        ("missing_instruments", pa.list_(pa.string())),
        ("matmul_tflops", pa.float64()),  # what a worker reached in a matrix product, where no datasheet says more
        ("network", pa.string()),  # JSON: how the nodes of a trial are joined, where there are several
        ("slots_per_node", pa.int32()),  # trials that might run on a node at a time
        ("attempt", pa.int32()),  # how often the trial had begun anew when it ran this leg; 0 is the first time
        ("placement", pa.string()),  # JSON: by rank, the node and its GPUs
        ("withdrawn", pa.string()),  # in `_aside/` alone: why the row does not count
    ]
)
SCHEMA = pa.schema([*CONTRACT, *EXTRA])


def build_row(sweep: str, space: str, trial: Trial, leg: Leg, outcome: Outcome) -> dict[str, Any]:
    """One ledger row: what the plan said of the leg, and what came of it."""
    setting, arm = leg.setting, leg.arm
    micro_batch = (
        (outcome.batch_probes or {}).get("micro_batch") if setting.batch_size == "max" else setting.micro_batch
    )
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
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
        "precision": setting.precision,
        "global_batch": None if micro_batch is None else micro_batch * setting.accumulation * setting.workers,
        "micro_batch": micro_batch,
        "accumulation": setting.accumulation,
        "workers": setting.workers,
        "arm": leg.arm_name,
        "engine": arm.engine,
        "arm_config": json.dumps(leg.arm_config(), sort_keys=True),
        "is_baseline": leg.is_baseline,
        "repeat": trial.repeat,
        "round": leg.round,
        "position": leg.position,
        "seed": trial.seed,
        "protocol": json.dumps(trial.as_measured(leg).protocol.model_dump(mode="json"), sort_keys=True),
        "differs": list(trial.differs),
        "facts": json.dumps(outcome.facts, sort_keys=True),
        "environment": json.dumps(outcome.environment, sort_keys=True),
        "started_at": datetime.fromtimestamp(outcome.started_at, tz=UTC),
        "process_group": outcome.process_group,
        "batch_probes": outcome.batch_probes,
        "attempt": outcome.attempt,
        "placement": outcome.placement,
        "slots_per_node": trial.slots_per_node,
    }
    match outcome:
        case Failure(kind=kind, message=message):
            row |= {"status": "failed", "failure_kind": kind, "failure_message": message}
        case Measurement():
            row["status"] = "ok"
            row |= {name: getattr(outcome, name) for name in _MEASURED}
    row |= {name: None if row[name] is None else json.dumps(row[name], sort_keys=True) for name in _JSON}
    return row


# What an outcome holds as an object, and the ledger as JSON.
_JSON = ("batch_probes", "memory_parts", "network", "placement", "telemetry")
# Columns that an outcome of either kind brings; build_row names them.
_OF_ANY_OUTCOME = ("facts", "environment", "started_at", "process_group", "attempt", "placement", "batch_probes")
_MEASURED = [name for name in SCHEMA.names if name in Measurement.__dataclass_fields__ and name not in _OF_ANY_OUTCOME]
