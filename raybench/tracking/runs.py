"""What MLflow is shown of a ledger: the names, parameters, metrics, curves and datasets of its runs, from rows alone.

Pure functions over ledger rows; `mlflow_runs.py` writes what they return. All runs of a sweep carry the same
parameters, so that MLflow's comparison shows what differs and nothing else. No mlflow here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from raybench.ledger.quantities import QUANTITIES, Row

CURVE_POINTS: Final = 100  # of a thinned curve; the ledger has every step
NONE: Final = "none"  # the value of a parameter that does not apply
_FACTS: Final = (
    "num_parameters", "device", "autocast", "parameter_dtype", "gradient_dtype", "master_dtype",
    "communication_dtype", "gradient_clipping", "compiled", "activation_checkpointing", "buffer_broadcasts",
)  # fmt: skip
_PARAMS: Final = {name: quantity.param for name, quantity in QUANTITIES.items() if quantity.param}
_METRICS: Final = tuple(quantity for quantity in QUANTITIES.values() if quantity.metric)
_OF_A_SWEEP: Final = {"arms": "arm", "models": "model", "datasets": "dataset", "precisions": "precision"}
_GPU_READINGS: Final = {  # MLflow's name -> telemetry's
    "utilization_percentage": "utilization",
    "power_usage_watts": "power_watts",
    "temperature_celsius": "temperature_celsius",
    "clock_mhz": "sm_clock_mhz",
    "memory_clock_mhz": "memory_clock_mhz",
}
_SCALES: Final = {"_ms": 1e3, "_mib": 2.0**-20}  # by the end of a metric's name: MLflow's pages show three decimals


def arm_name(row: Row) -> str:
    """The name of the run that stands for an arm in a setting."""
    return f"{row['arm']} | {row['setting']}"


def leg_name(row: Row) -> str:
    """The name of a leg's run."""
    return f"{arm_name(row)} | " + (
        "profiled" if row.get("profiled") else f"repeat {row['repeat']} round {row['round']}"
    )


def arm_params(row: Row) -> dict[str, str]:
    """The parameters of an arm in a setting, told from one of its legs: flat, short, the same keys in every arm.

    What the leg was found to be (its facts) stands there where it says so, else `none`.
    """
    facts, config = json.loads(row["facts"]), json.loads(row["arm_config"])
    params: dict[str, Any] = {param: row.get(name) for name, param in _PARAMS.items()}
    built = config.get("deepspeed_config") or {}  # what the engine was given, however the space spells it
    zero = built.get("zero_optimization") or {}
    params["zero_stage"] = zero.get("stage", 0) if row["engine"] == "deepspeed" else None
    params["offload"] = _offload(zero) or ("all" if config.get("cpu_offload") else None)
    params["image_size"] = (facts.get("image_shape") or [None])[-1]
    optimizer = facts.get("optimizer") or {}
    params |= {
        "optimizer": optimizer.get("class"),
        "optimizer_kernel": optimizer.get("kernel"),
        "learning_rate": optimizer.get("lr"),
        "weight_decay": optimizer.get("weight_decay"),
    }
    params |= {key: facts.get(key) for key in _FACTS}
    return {key: NONE if value is None or value == "" else _text(value) for key, value in params.items()}


def _offload(zero: Mapping[str, Any]) -> str | None:
    """What a zero_optimization section keeps elsewhere than on the device, and where: `optimizer: cpu`."""
    parts = {"optimizer": zero.get("offload_optimizer"), "parameters": zero.get("offload_param")}
    devices = {name: (part or {}).get("device", "none") for name, part in parts.items()}
    return ", ".join(f"{name}: {device}" for name, device in devices.items() if device not in ("none", None)) or None


def sweep_name(row: Row) -> str:
    """The name of a sweep's run: the sweep's own, or its space and when it began where nobody named it."""
    if re.fullmatch("[0-9a-f]{8}", row["sweep"]) is None:
        return str(row["sweep"])
    return f"{row['space']} {row['started_at']:%Y-%m-%d %H:%M}"


def sweep_params(rows: Sequence[Row]) -> dict[str, str]:
    """The parameters of a sweep: what is the same for all of its legs, and what it is made of."""
    protocol = json.loads(rows[0].get("protocol") or "{}")
    baseline = next((row["arm"] for row in rows if row["is_baseline"]), None)
    lists = {name: ", ".join(sorted({str(row[column]) for row in rows})) for name, column in _OF_A_SWEEP.items()}
    params = {
        "space": rows[0]["space"],
        "sweep": rows[0]["sweep"],
        "baseline": baseline,
        **lists,
        **{f"protocol.{name}": protocol.get(name) for name in ("kind", "warmup_steps", "steps", "rounds", "epochs")},
    }
    return {key: _text(value) for key, value in params.items() if value not in (None, "")}


def leg_params(row: Row) -> dict[str, str]:
    """The parameters of a leg: those of its arm, and its place in the sweep."""
    return arm_params(row) | {key: str(row[key]) for key in ("repeat", "round", "position", "seed")}


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:500]


def leg_metrics(row: Row) -> dict[str, float]:
    """The metrics of a leg: step time, throughput, phases, memory, losses; none for a failure."""
    if row["status"] != "ok":
        return {}
    begin = row["warmup_steps"]
    measured = np.asarray(row["step_seconds"][begin:])
    p50, p90, p99 = 1e3 * np.percentile(measured, [50, 90, 99])
    values = {
        "step_ms_p50": p50,
        "step_ms_p90": p90,
        "step_ms_p99": p99,
        "samples_per_second": row["samples_per_step"] / measured.mean(),
    }
    if row.get("tokens_per_step"):
        values["tokens_per_second"] = row["tokens_per_step"] / measured.mean()
    if row["data_seconds"]:  # of a script they are not known
        values["data_wait_share"] = np.sum(row["data_seconds"][begin:]) / measured.sum()
    for quantity in _METRICS:
        value = row.get(quantity.name)
        if value is None:
            continue
        if isinstance(value, list):
            values[f"{quantity.metric}_mean"] = np.mean(value[begin:]) * _scale(quantity.metric)
        else:
            values[quantity.metric] = value * _scale(quantity.metric)
    return {key: _readable(key, value) for key, value in values.items()}


def _readable(metric: str, value: float) -> float:
    """Times, sizes and rates with six digits that count, which a column has room for; the ledger has all."""
    rounded = any(part in metric for part in ("_ms", "_mib", "_per_second"))
    return float(f"{value:.6g}" if rounded else value)


def _scale(metric: str) -> float:
    return next((factor for end, factor in _SCALES.items() if metric.endswith(end)), 1.0)


def arm_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """The means of metrics over an arm's measured legs in a setting, and how many of its legs there are of each kind.

    Throughput is that of the mean step, as in a leg; where legs had batches of several sizes, the mean of theirs.
    """
    legs = [leg_metrics(row) for row in rows if row["status"] == "ok"]
    names = dict.fromkeys(name for leg in legs for name in leg)
    values = {name: _readable(name, float(np.mean([leg[name] for leg in legs if name in leg]))) for name in names}
    for rate, column in (("samples_per_second", "samples_per_step"), ("tokens_per_second", "tokens_per_step")):
        sizes = {row[column] for row in rows if row["status"] == "ok"} if rate in values else set()
        if len(sizes) == 1:
            values[rate] = _readable(rate, 1e3 * sizes.pop() / values["step_ms_mean"])
    return {**values, "legs_measured": float(len(legs)), "legs_failed": float(len(rows) - len(legs))}


def leg_curves(row: Row) -> dict[str, list[tuple[int, float, float]]]:
    """Curves of a leg: name -> points (step or epoch, seconds since the leg's first step began, value).

    Step times and losses are thinned to at most `CURVE_POINTS` points, each the mean of as many steps in a row and
    placed at the last of them; the warm-up is part of the curve. Epochs are not thinned.
    """
    if row["status"] != "ok":
        return {}
    ends = np.cumsum(row["step_seconds"])
    curves = {
        name: _thinned(row[key], ends, _scale(name))
        for key, name in (("step_seconds", "steps/step_ms"), ("step_losses", "steps/loss"))
        if row.get(key) and len(row[key]) == len(ends)
    }
    epochs = np.cumsum(row.get("epoch_seconds") or [])
    for key, name in (("epoch_accuracy", "epochs/accuracy"), ("epoch_loss", "epochs/loss")):
        values = row.get(key) or []
        if len(values) == len(epochs):
            points = enumerate(zip(epochs, values, strict=True))
            curves[name] = [(epoch, float(end), float(value)) for epoch, (end, value) in points if value is not None]
    return {name: points for name, points in curves.items() if points}


def _thinned(values: Sequence[float], ends: np.ndarray, scale: float) -> list[tuple[int, float, float]]:
    parts = np.array_split(np.arange(len(ends)), min(CURVE_POINTS, len(ends)))
    return [(int(part[-1]), float(ends[part[-1]]), scale * float(np.mean([values[i] for i in part]))) for part in parts]


def system_curves(row: Row) -> dict[str, list[tuple[int, float, float]]]:
    """What telemetry sampled in the measured steps, as `leg_curves`, by the names of MLflow's System metrics tab.

    Several nodes are told apart as MLflow tells them: `system/node_0/...`.
    """
    if row["status"] != "ok" or not row.get("telemetry"):
        return {}
    nodes = json.loads(row["telemetry"])
    begin = float(np.sum(row["step_seconds"][: row["warmup_steps"]]))
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for number, node in enumerate(nodes):
        place = f"system/node_{number}/" if len(nodes) > 1 else "system/"
        for name, values in _sampled(node).items():
            length = float(node.get("seconds") or 0.0) / len(values)
            curves[place + name] = [(i, begin + (i + 0.5) * length, float(value)) for i, value in enumerate(values)]
    return curves


def _sampled(node: Mapping[str, Any]) -> dict[str, list[float]]:
    """The readings of one node, each as a list over time: a trace, or the one number of the whole window."""
    host = node.get("host") or {}
    cores, own, foreign = host.get("cores"), host.get("own_cores"), host.get("foreign_cores")
    found: dict[str, Any] = {"cpu_foreign_cores": host.get("foreign_cores_trace")}
    found["cpu_frequency_mhz"] = (host.get("frequency_mhz") or {}).get("trace")
    if cores and own is not None:
        found["cpu_utilization_percentage"] = [100.0 * (own + (foreign or 0.0)) / cores]
    for index, gpu in enumerate(node.get("gpus") or []):
        for name, reading in _GPU_READINGS.items():
            found[f"gpu_{index}_{name}"] = (gpu.get(reading) or {}).get("trace")
    return {name: values for name, values in found.items() if values}


def dataset(row: Row) -> dict[str, str]:
    """What the row was trained on, in MLflow's words: name, digest, source, source_type, profile.

    The digest is the data's own where the facts state one; else it names dataset and image shape.
    """
    facts = json.loads(row["facts"])
    shape = facts.get("image_shape")
    stated = facts.get("dataset_digest")
    size = "x".join(map(str, shape)) if shape else "size not stated"
    return {
        "name": row["dataset"],
        "digest": str(stated or f"{row['dataset']}-{size}")[:36],
        "source_type": "raybench",
        "source": json.dumps({"dataset": row["dataset"]}),
        "profile": json.dumps({"image_shape": shape, "samples_per_rank": facts.get("samples_per_epoch_per_rank")}),
    }
