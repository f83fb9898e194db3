"""What an arm is judged by: a cost of each leg, positive, the lower the better, in the metric's own unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from raybench.analysis.inference import Floats
from raybench.analysis.legs import Legs
from raybench.errors import UserError
from raybench.text import suggest


@dataclass(frozen=True)
class Metric:
    """A cost: `cost(legs)` has shape (legs,), nan where a leg has none, as when it failed."""

    name: str
    per: str  # what one unit of it is of, for words: "step" as in seconds a step
    meaning: str
    cost: Callable[[Legs], Floats]
    absent: str = "no_value"  # why a measured leg may have none, as a kind of failure


def _column(name: str) -> Callable[[Legs], Floats]:
    def cost(legs: Legs) -> Floats:
        values = legs.number[name]
        if not np.any(values[legs.ok] > 0):
            raise UserError(f"metric={name}: no measured leg of the ledger has a {name} above 0; take another metric")
        return np.where(legs.ok & (values > 0), values, np.nan)

    return cost


def _time_to_accuracy(legs: Legs) -> Floats:
    seconds = legs.number["time_to_accuracy"]
    if np.isnan(seconds[legs.ok]).all():
        raise UserError(
            "metric=time_to_accuracy: no leg's protocol has a target_accuracy and no accuracy to hold to it"
        )
    return np.where(np.isfinite(seconds) & (seconds > 0), seconds, np.nan)


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("step_seconds", "step", "mean measured step", lambda legs: legs.steps.mean_seconds),
        Metric("median_step_seconds", "step", "median measured step", lambda legs: legs.steps.median_seconds),
        Metric("train_seconds", "leg", "all steps of a leg", _column("train_seconds")),
        Metric(
            "time_to_accuracy",
            "leg",
            "training until the first epoch that reaches the protocol's target_accuracy",
            _time_to_accuracy,
            absent="target_not_reached",
        ),
        Metric("setup_seconds", "leg", "building model and engine, compilation included", _column("setup_seconds")),
        Metric("peak_device_bytes", "byte", "peak memory of the device, in bytes", _column("peak_device_bytes")),
        Metric("peak_host_bytes", "byte", "peak memory of the host, in bytes", _column("peak_host_bytes")),
    )
}


def log_cost(legs: Legs, cost: Floats, metric: Metric) -> Floats:
    """Log of the cost, a sample where it is one of steps: what arms of different batches are compared by."""
    samples = legs.number["samples_per_step"]
    known = np.where(samples > 0, samples, 1.0) if metric.per == "step" else np.ones(len(legs))
    return np.asarray(np.log(cost / known))


def find_metric(name: str) -> Metric:
    """The metric of that name; raises UserError with the known ones."""
    if name not in METRICS:
        raise UserError(f"metric={name}: {suggest(name, METRICS)}")
    return METRICS[name]
