"""Ledgers whose truth is known: sweeps that never ran, for the tests and benchmarks of the analysis.

The log of a step's time is the sum of its setting's level, a shift that a whole trial shares (it cancels in
the pairing), the arm's effect, the trial's own deviation from that effect, a shift of the leg, and noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raybench.ledger.columns import CONTRACT, SCHEMA_VERSION


@dataclass(frozen=True)
class Truth:
    """What a simulated sweep is made from. Standard deviations are of log seconds."""

    speedups: Mapping[str, float] = field(default_factory=lambda: {"ddp": 1.0, "zero1": 1.0})  # the first: baseline
    num_settings: int = 1
    num_trials: int = 5
    num_rounds: int = 2
    num_steps: int = 20  # measured
    warmup_steps: int = 2
    block_deviation: float = 0.04  # shared by a trial
    trial_deviation: float = 0.01  # of a trial's effect
    leg_deviation: float = 0.012
    step_deviation: float = 0.03
    setting_deviation: float = 0.0  # of the effect, between settings
    drift: float = 0.0  # of log seconds, a leg's place in its trial
    facts: str = '{"gradient_clipping": 0.0}'
    environment: str = '{"hardware": "simulated"}'
    sweep: str = "simulated"


def simulate_ledger(path: Path, truth: Truth, seed: int = 0) -> Path:
    """Write one Parquet file at `path` and return it; the same seed gives the same bytes.

    Settings are written in blocks, so that a million legs need not be in memory at once.
    """
    random = np.random.default_rng(seed)
    arms = len(truth.speedups)
    legs_of_setting = arms * truth.num_trials * truth.num_rounds
    block = max(1, 20_000 // legs_of_setting)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, CONTRACT, compression="zstd", compression_level=1) as writer:
        for first in range(0, truth.num_settings, block):
            settings = np.arange(first, min(first + block, truth.num_settings))
            writer.write_table(_block(truth, settings, random))
    return path


def _block(truth: Truth, settings: np.ndarray, random: np.random.Generator) -> pa.Table:
    names = list(truth.speedups)
    shape = (len(settings), truth.num_trials, truth.num_rounds, len(names))
    setting, trial, round_, arm = (axis.ravel() for axis in np.indices(shape))
    position = np.where((round_ + trial) % 2 == 0, arm, len(names) - 1 - arm) + round_ * len(names)
    effect = np.log(np.array(list(truth.speedups.values())))
    of_setting = random.normal(0, truth.setting_deviation, shape[:1] + shape[3:])
    of_trial = random.normal(0, truth.trial_deviation, shape[:2] + shape[3:])
    of_setting[:, 0], of_trial[:, :, 0] = 0.0, 0.0
    level = random.uniform(-6, -2, shape[0])[:, None, None, None]
    level = level + random.normal(0, truth.block_deviation, shape[:2])[:, :, None, None]
    level = level - effect - of_setting[:, None, None, :] - of_trial[:, :, None, :]
    level = level + random.normal(0, truth.leg_deviation, shape) + truth.drift * position.reshape(shape)
    length = truth.warmup_steps + truth.num_steps
    steps = np.exp(level.ravel()[:, None] + random.normal(0, truth.step_deviation, (len(setting), length)))
    return _table(truth, settings[setting], trial, round_, np.array(names)[arm], arm == 0, position, steps)


def _table(
    truth: Truth,
    setting: np.ndarray,
    trial: np.ndarray,
    round_: np.ndarray,
    arm: np.ndarray,
    is_baseline: np.ndarray,
    position: np.ndarray,
    steps: np.ndarray,
) -> pa.Table:
    legs, length = steps.shape
    offsets = pa.array(np.arange(legs + 1, dtype=np.int32) * length)
    setting_id = np.char.mod("s%05d", setting)
    trial_id = np.char.add(setting_id, np.char.mod("-%d", trial))
    leg_id = np.char.add(np.char.add(trial_id, np.char.add("-", arm)), np.char.mod("-%d", round_))
    families = np.array(["cnn", "vit", "lenet"])
    columns = {
        "schema_version": np.full(legs, SCHEMA_VERSION, dtype=np.int32),
        "sweep": truth.sweep,
        "space": "simulated",
        "setting_id": setting_id,
        "trial_id": trial_id,
        "leg_id": leg_id,
        "setting": np.char.add("model ", setting_id),
        "model": setting_id,
        "family": families[setting % 3],
        "dataset": "synthetic",
        "precision": "fp32",
        "global_batch": 128,
        "micro_batch": 32,
        "accumulation": 1,
        "workers": 4,
        "arm": arm,
        "engine": "simulated",
        "arm_config": json.dumps({}),
        "is_baseline": is_baseline,
        "repeat": trial,
        "round": round_,
        "position": position,
        "seed": trial,
        "status": "ok",
        "step_seconds": pa.ListArray.from_arrays(offsets, pa.array(steps.ravel())),
        "warmup_steps": truth.warmup_steps,
        "data_seconds": pa.ListArray.from_arrays(offsets, pa.array(steps.ravel() * 0.01)),
        "samples_per_step": 128,
        "peak_device_bytes": 2**30,
        "peak_host_bytes": 2**31,
        "setup_seconds": 1.0,
        "train_seconds": steps.sum(axis=1),
        "eval_seconds": 0.0,
        "first_loss": 2.3,
        "final_loss": 1.0,
        "facts": truth.facts,
        "environment": truth.environment,
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    arrays = []
    for column in CONTRACT:
        value = columns.get(column.name)
        if isinstance(value, np.ndarray):
            value = pa.array(value if value.dtype.kind != "U" else value.astype(object), column.type)
        elif not isinstance(value, pa.Array):
            value = pa.repeat(pa.scalar(value, column.type), legs)
        arrays.append(value)
    return pa.table(arrays, schema=CONTRACT)
