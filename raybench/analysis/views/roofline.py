"""Rooflines: the minimum time of a setting's step on this machine at an arm's precision and batch, and the arm's share.

The floor is the longer of two times: the step's floating-point operations at the rate that a matrix product reached,
and the bytes that every arm must move at the workers' copy rate. These bytes are the weights, read in the forward and
the backward pass of each micro-batch, the gradients, written once, and the optimizer state, read and written once by
the worker that holds it. Activations are left out, because caches and fused kernels decide about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raybench.analysis.arrays import dense, parse_object, rows_by_group
from raybench.analysis.legs import Legs
from raybench.analysis.tradeoffs import training_flops
from raybench.analysis.views.traffic import smallest_element
from raybench.statistics.inference import Integers


@dataclass(frozen=True)
class Roofline:
    """One arm in one setting on one hardware; None where the ledger has no value."""

    hardware: str
    setting_id: str
    setting: str
    arm: str
    step_seconds: float  # geometric mean over legs
    compute_seconds: float | None  # the step's operations, at the rate of a matrix product
    memory_seconds: float | None  # the step's least bytes, at the rate of a copy
    floor_seconds: float | None  # the longer of the two; equal for all arms of one precision and batch
    floor_share: float | None  # of the step's time
    joules_per_sample: float | None  # of the GPUs, in the measured steps


def rooflines(legs: Legs, baseline: str) -> tuple[Roofline, ...]:
    """One for each arm of a setting with a measured memory rate or energy, the baseline first."""
    found: list[Roofline] = []
    known = np.isfinite(legs.number["copy_bytes_per_second"]) | np.isfinite(legs.number["energy_joules"])
    if not (known & legs.ok).any():
        return ()
    for rows in rows_by_group(dense(legs.hardware.codes, legs.text["setting_id"].codes)):
        measured = rows[legs.ok[rows]]
        if not known[measured].any():
            continue
        arms = sorted({legs.text["arm"][row] for row in measured}, key=lambda arm: (arm != baseline, arm))
        of_arm = {arm: measured[[legs.text["arm"][row] == arm for row in measured]] for arm in arms}
        floors: dict[tuple[str, float], tuple[float | None, float | None]] = {}
        for arm, own in of_arm.items():
            work = legs.text["precision"][own[0]], float(np.nan_to_num(legs.number["samples_per_step"][own[0]]))
            if work not in floors:  # arms of the baseline's precision and batch share its floor
                floors[work] = _floors(legs, own)
            found.append(_roofline(legs, own, arm, *floors[work]))
    return tuple(found)


def _roofline(legs: Legs, rows: Integers, arm: str, compute: float | None, memory: float | None) -> Roofline:
    step = float(np.exp(np.log(legs.steps.mean_seconds[rows]).mean()))
    floor = max((seconds for seconds in (compute, memory) if seconds is not None), default=None)
    num_samples = legs.number["samples_per_step"][rows] * (
        legs.steps.num_steps[rows] - np.nan_to_num(legs.number["warmup_steps"][rows])
    )
    joules = legs.number["energy_joules"][rows] / num_samples
    joules = joules[np.isfinite(joules)]
    return Roofline(
        hardware=legs.hardware[rows[0]],
        setting_id=legs.text["setting_id"][rows[0]],
        setting=legs.text["setting"][rows[0]],
        arm=arm,
        step_seconds=step,
        compute_seconds=compute,
        memory_seconds=memory,
        floor_seconds=floor,
        floor_share=None if floor is None else floor / step,
        joules_per_sample=float(joules.mean()) if len(joules) else None,
    )


def _floors(legs: Legs, rows: Integers) -> tuple[float | None, float | None]:
    """For one arm's legs: (seconds of the operations, seconds of the least bytes) of one worker's step."""
    row, number = int(rows[0]), legs.number
    facts, workers = parse_object(legs.text["facts"][row]), number["workers"][row]
    flops, moved = training_flops(facts), _least_bytes(legs, row, facts)
    matmul, copied = (_mean(number[name][rows]) for name in ("matmul_tflops", "copy_bytes_per_second"))
    compute = flops * number["samples_per_step"][row] / workers / (matmul * 1e12) if flops and matmul else None
    memory = moved / copied if moved and copied else None
    return compute, memory


def _least_bytes(legs: Legs, row: int, facts: Mapping[str, object]) -> float | None:
    """Bytes that one worker must move in a step, whatever the engine."""
    weights, trained = facts.get("num_parameters"), facts.get("num_trainable_parameters", facts.get("num_parameters"))
    size, gradient = smallest_element(facts.get("parameter_dtype")), smallest_element(facts.get("gradient_dtype"))
    passes, workers = 2 * np.nan_to_num(legs.number["accumulation"][row], nan=1.0), legs.number["workers"][row]
    if not isinstance(weights, int) or not isinstance(trained, int) or size is None or gradient is None:
        return None
    kept = parse_object(legs.text["memory_parts"][row]).get("optimizer_state")
    states = [ranks for ranks in kept if isinstance(ranks, int)] if isinstance(kept, list) else []
    # Assumes full sharding; an engine that keeps everything on every worker moves more.
    return float(passes * weights * size + trained * gradient + 2 * max(states, default=0) / workers)


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.exp(np.log(known).mean())) if len(known) else None
