"""Small ledgers written by hand: one call a leg, everything else the same in all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.analysis import Analysis, Comparison
from raybench.ledger.columns import CONTRACT, EXTRA

SCHEMA = pa.schema([*CONTRACT, *EXTRA])


def leg(
    arm: str, trial: int = 0, round: int = 0, seconds: float | Sequence[float] = 1.0, **columns: Any
) -> dict[str, Any]:
    """One row of an `ok` leg with steps of `seconds`, or a failed one when `failure_kind` is given."""
    setting = columns.pop("setting_id", "s0")
    failed = "failure_kind" in columns
    steps = [seconds] * 3 if isinstance(seconds, int | float) else list(seconds)
    facts = columns.pop("facts", {"gradient_clipping": 0.0})
    environment = columns.pop("environment", {"gpu": "H100"})
    row: dict[str, Any] = {
        "schema_version": 1, "sweep": "friday", "space": "cnns", "setting_id": setting,
        "trial_id": f"{setting}-{trial}", "leg_id": f"{setting}-{trial}-{arm}-{round}", "setting": f"net {setting}",
        "model": "net", "family": "cnn", "dataset": "digits", "precision": "fp32", "global_batch": 8, "micro_batch": 4,
        "accumulation": 1, "workers": 2, "arm": arm, "engine": "torch", "arm_config": "{}", "is_baseline": arm == "ddp",
        "repeat": trial, "round": round, "position": 0, "seed": trial, "status": "failed" if failed else "ok",
        "failure_message": "no room" if failed else None, "step_seconds": None if failed else steps,
        "warmup_steps": None if failed else 1, "data_seconds": None if failed else [0.0] * len(steps),
        "samples_per_step": 8, "peak_host_bytes": 2**30, "setup_seconds": 1.0, "train_seconds": sum(steps),
        "eval_seconds": 0.0, "first_loss": 2.0, "final_loss": 1.0, "facts": json.dumps(facts),
        "environment": json.dumps(environment), "started_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return row | columns


def paired(ratios: Iterable[float], arm: str = "zero1", base: float = 1.0, **columns: Any) -> list[dict[str, Any]]:
    """Trials of one round: in trial i the baseline takes `base` seconds a step and the arm base / ratio."""
    rows = []
    for trial, ratio in enumerate(ratios):
        rows.append(leg("ddp", trial, seconds=base, **columns))
        rows.append(leg(arm, trial, seconds=base / ratio, **columns))
    return rows


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> Path:
    """Write rows as one ledger file, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def texts(found: Analysis | Comparison) -> tuple[str, ...]:
    """The caveats of an analysis, or of a comparison, in words."""
    return tuple(one.text for one in found.caveats)
