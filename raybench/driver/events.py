"""What the recorder tells the driver: an event a leg, made of its ledger row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from raybench.analysis.step_times import measured_mean
from raybench.driver.messages import LegEvent

EVENT_COLUMNS: Final = [
    "setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline", "status", "failure_kind",
    "failure_message", "step_seconds", "warmup_steps", "samples_per_step", "setup_seconds", "train_seconds",
    "eval_seconds", "attempt", "profiled",
]  # fmt: skip


def leg_event(row: Mapping[str, Any]) -> LegEvent:
    """What there is to tell of a leg: its ledger row without the lists."""
    event = LegEvent(
        setting_id=row["setting_id"], setting=row["setting"], repeat=row["repeat"], arm=row["arm"],
        round=row["round"], leg_id=row["leg_id"], is_baseline=row["is_baseline"], attempt=row.get("attempt") or 0,
        profiled=bool(row.get("profiled")),
    )  # fmt: skip
    if row["status"] == "failed":
        return replace(event, failure=f"{row['failure_kind']}: {row['failure_message']}")
    return replace(
        event,
        mean_step_seconds=measured_mean(row["step_seconds"], row["warmup_steps"]),
        num_steps=len(row["step_seconds"]) - row["warmup_steps"],
        samples_per_step=row["samples_per_step"],
        seconds=sum(row[key] or 0.0 for key in ("setup_seconds", "train_seconds", "eval_seconds")),
    )
