"""One leg: build, warm up, measure, tear down. The same code for every engine."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from raybench.declare.memory_need import predicted_bytes
from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import evaluates
from raybench.declare.setting import Setting
from raybench.errors import NotFinite
from raybench.ledger.outcome import Measurement
from raybench.statistics.steady import steady_from_step
from raybench.training import facts, memory
from raybench.training.engines import build_engine
from raybench.training.evaluation import Evaluator
from raybench.training.initial import InitialModel
from raybench.training.loader import Batches
from raybench.training.models.layers import checkpoint_activations
from raybench.training.node.sampling import Telemetry
from raybench.training.profiling import combined
from raybench.training.protocols import Procedure, Run
from raybench.training.ranks import Ranks
from raybench.training.tasks import build_task
from raybench.training.tasks.adapt import adapt

_NO_HOST_PEAK = "host memory peak (it cannot be reset here: the size at a leg's end stands in its place)"


def run_leg(
    trial: Trial, leg: Leg, ranks: Ranks, telemetry: Telemetry, initial: InitialModel | None = None
) -> Measurement:
    """Run one leg on every rank of the group; every rank returns the same measurement.

    Raises NotFinite or NothingTrained when nothing was trained, InvalidConfig and Unsupported from the engine, and any
    other error of the libraries. `initial` holds the model built for the trial's earlier legs.
    """
    started_at = time.time()
    initial = initial or InitialModel()
    telemetry.begin_leg()
    seed_everything(trial.seed)
    set_kernels(leg.setting)
    peaks_reset = memory.begin_peaks(ranks.device)
    task = build_task(leg.setting)
    model = adapt(initial.of(task, leg.setting, trial.seed), leg.setting)
    model_facts = facts.model_facts(model, task)
    sizes = model_facts["num_parameters"], model_facts["num_trainable_parameters"]
    shape, on_cpu = task.shape(model_facts), ranks.device.type == "cpu"
    predicted = predicted_bytes(leg.setting, leg.arm, *sizes, shape=shape, on_cpu=on_cpu)
    begun = time.perf_counter()  # not part of any arm's set-up: the model is built once for all arms
    model.to(ranks.device).train()
    if leg.setting.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if leg.setting.activation_checkpointing:
        checkpoint_activations(model)
    batches = Batches(task, ranks.rank, trial.seed, ranks.device)
    evaluator = Evaluator(task, ranks) if evaluates(trial.protocol) else None
    engine = build_engine(leg, model, ranks.device)
    try:
        ranks.barrier()
        setup_seconds = time.perf_counter() - begun
        run = Procedure(trial, leg, task, model, engine, batches, evaluator, ranks, telemetry).run()
        peaks = memory.read_peaks(ranks.device, peaks_reset, initial.num_bytes)
    finally:
        engine.destroy()
    everyone = ranks.gather((run.times, run.losses, setup_seconds, peaks, run.memory_parts))
    profiled = ranks.gather(run.profiled) if run.profiled is not None else None
    times = run.times.slowest([other[0] for other in everyone])
    losses = np.mean([other[1] for other in everyone], axis=0)
    if not np.isfinite(losses).all():
        raise NotFinite(f"the loss of step {int(np.argmin(np.isfinite(losses)))} is {losses[~np.isfinite(losses)][0]}")
    reading = telemetry.gather()
    return Measurement(
        step_seconds=times.step.tolist(),
        warmup_steps=trial.protocol.warmup_steps,
        data_seconds=times.data.tolist(),
        forward_seconds=_listed(times.forward),
        backward_seconds=_listed(times.backward),
        optimizer_seconds=_listed(times.optimizer),
        samples_per_step=leg.setting.global_batch,
        **_memory([other[3] for other in everyone], [other[4] for other in everyone]),
        setup_seconds=max(other[2] for other in everyone),
        train_seconds=float(times.step.sum()),
        eval_seconds=sum(evaluation.seconds for evaluation in run.evaluations),
        first_loss=float(losses[0]),
        final_loss=float(losses[-1]),
        step_losses=losses.tolist(),
        gradient_norms=None if np.isnan(run.gradient_norms).all() else run.gradient_norms,
        **_evaluated(run, times.step),
        steady_from_step=steady_from_step(times.step.tolist()),
        telemetry=reading.nodes,
        energy_joules=None if leg.profiled else reading.energy_joules,  # of the profile, too
        foreign_cpu_cores=reading.foreign_cpu_cores,
        contaminated=reading.contaminated,
        missing_instruments=[*(reading.missing or []), *({_NO_HOST_PEAK} if not peaks_reset else {})],
        skipped_steps=run.facts.get("skipped_steps"),
        profile=combined(profiled, float(times.step[trial.protocol.warmup_steps :].mean())) if profiled else None,
        facts={
            **model_facts,
            **run.facts,
            "informative": {**run.facts.get("informative", {}), "predicted_memory": predicted},
            "first_loss": float(losses[0]),
            "timed": "its own steps",
        },
        started_at=started_at,
    )


def seed_everything(seed: int) -> None:
    """Set the same random state on every rank and in every arm of a trial."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def set_kernels(setting: Setting) -> None:
    """Allow TF32 in matrix products and convolutions for `precision: tf32` only; let cudnn autotune on every leg.

    `deterministic` allows only deterministic kernels, without autotuning; torch raises where an operation has none.
    """
    tf32 = setting.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not setting.deterministic
    torch.backends.cudnn.deterministic = setting.deterministic
    torch.use_deterministic_algorithms(setting.deterministic)
    if setting.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to be deterministic


def _evaluated(run: Run, step_seconds: np.ndarray) -> dict[str, Any]:
    """The measurement's fields on model quality; empty where nothing was evaluated."""
    if not run.evaluations:
        return {}
    last = run.evaluations[-1]
    fields = {"accuracy": last.accuracy, "accuracy_top5": last.accuracy_top5, "eval_loss": last.loss}
    fields["bits_per_byte"] = last.bits_per_byte
    if not run.epochs:
        return fields
    elapsed = np.concatenate([[0.0], np.cumsum(step_seconds)])
    ends = [0, *(end for end, _ in run.epochs)]
    return {
        **fields,
        "epoch_seconds": np.diff(elapsed[ends]).tolist(),
        "epoch_accuracy": [None if e is None else e.accuracy for _, e in run.epochs],
        "epoch_loss": [None if e is None else e.loss for _, e in run.epochs],
    }


def _memory(peaks: list[memory.Peaks], parts: list[dict[str, int | None]]) -> dict[str, Any]:
    """The measurement's memory fields, from every rank's peaks and parts."""
    on_device = [p for p in peaks if p.device_allocated is not None]
    return {
        "peak_host_bytes": max(p.host for p in peaks),
        "peak_host_bytes_sum": sum(p.host for p in peaks),
        "peak_device_bytes": max((p.device_allocated or 0 for p in on_device), default=None),
        "peak_device_reserved_bytes": max((p.device_reserved or 0 for p in on_device), default=None),
        "allocation_retries": sum(p.allocation_retries or 0 for p in on_device) if on_device else None,
        "memory_parts": {part: [rank[part] for rank in parts] for part in parts[0]},
    }


def _listed(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else values.tolist()
