"""What the recorder tells the driver: an event a leg, made of its ledger row."""

from __future__ import annotations

from typing import Any

from raybench.analysis.steps import measured_mean

EVENT_COLUMNS = [
    "setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline", "status", "failure_kind",
    "failure_message", "step_seconds", "warmup_steps", "samples_per_step", "setup_seconds", "train_seconds",
    "eval_seconds", "attempt",
]  # fmt: skip


def leg_event(row: dict[str, Any]) -> dict[str, Any]:
    """What there is to tell of a leg: the ledger row without its lists."""
    kept = ("setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline")
    event: dict[str, Any] = {key: row[key] for key in kept} | {"attempt": row.get("attempt") or 0}
    if row["status"] == "failed":
        return {**event, "failure": f"{row['failure_kind']}: {row['failure_message']}"}
    taken = sum(row[key] or 0.0 for key in ("setup_seconds", "train_seconds", "eval_seconds"))
    return {
        **event,
        "mean_step_seconds": measured_mean(row["step_seconds"], row["warmup_steps"]),
        "samples_per_step": row["samples_per_step"],
        "seconds": taken,
    }
