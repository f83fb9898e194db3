"""The two outcomes of a leg, as the workers hand them over: a measurement or a failure.

No torch, ray or pyarrow here: a worker builds an outcome, the recorder turns it into a ledger row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

FailureKind = Literal["out_of_memory", "not_finite", "timeout", "crashed", "unsupported", "invalid_config", "error"]
FAILURE_KINDS: tuple[str, ...] = get_args(FailureKind)


@dataclass(frozen=True)
class Measurement:
    """What one leg measured. Seconds and bytes; lists hold one value per optimizer step, warm-up included."""

    step_seconds: list[float]  # each the maximum over ranks
    warmup_steps: int  # how many of the first are not measured
    data_seconds: list[float]  # waiting for data, within each step; maximum over ranks
    samples_per_step: int  # over all ranks
    peak_device_bytes: int | None  # maximum over ranks; None without an accelerator
    peak_host_bytes: int
    setup_seconds: float
    train_seconds: float
    eval_seconds: float
    first_loss: float
    final_loss: float
    accuracy: float | None = None  # top-1, a fraction of the test samples; None where nothing was evaluated
    accuracy_top5: float | None = None
    eval_loss: float | None = None  # mean cross entropy over the test samples
    step_losses: list[float] | None = None  # of every step, the mean over ranks and micro-batches
    epoch_seconds: list[float] | None = None  # training alone; None without epochs
    epoch_accuracy: list[float | None] | None = None  # None for an epoch that was not evaluated
    epoch_loss: list[float | None] | None = None  # of the test samples, in the same way
    forward_seconds: list[float] | None = None  # None with phases off
    backward_seconds: list[float] | None = None
    optimizer_seconds: list[float] | None = None
    steady_from_step: int | None = None  # first step of the last steady segment
    peak_host_bytes_sum: int | None = None  # the ranks' peaks added up, pages that they share in each of them
    peak_device_reserved_bytes: int | None = None  # maximum over ranks, of what the allocator took from the driver
    allocation_retries: int | None = None  # all ranks; None without an accelerator
    memory_parts: dict[str, list[int | None]] | None = None  # bytes by what they hold, a value a rank
    skipped_steps: int | None = None  # optimizer steps passed over for an overflow, in the whole leg
    matmul_tflops: float | None = None  # what a worker reached in a matrix product before the group's legs
    network: dict[str, Any] | None = None  # between nodes, measured before the group's legs
    telemetry: list[dict[str, Any]] | None = None  # a reading for each node; None with telemetry off
    energy_joules: float | None = None  # of all GPUs, in the measured steps
    foreign_cpu_cores: float | None = None  # busy with something else than the trial, mean; of the node that had most
    contaminated: list[str] | None = None  # why; empty where clean, None where not known
    missing_instruments: list[str] | None = None  # wanted and not there
    batch_probes: dict[str, Any] | None = None  # how the largest batch was found, where it was sought
    facts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0  # seconds since the epoch
    process_group: str = ""  # names the fresh set of processes that ran this leg
    attempt: int = 0  # how often the trial had begun anew
    placement: list[dict[str, Any]] | None = None  # by rank: `node`, `gpus`


@dataclass(frozen=True)
class Failure:
    """Why one leg has no measurement."""

    kind: FailureKind
    message: str
    facts: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    process_group: str = ""
    attempt: int = 0
    placement: list[dict[str, Any]] | None = None
    batch_probes: dict[str, Any] | None = None  # as a measurement's

    def __post_init__(self) -> None:
        assert self.kind in FAILURE_KINDS, self.kind


Outcome = Measurement | Failure


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """A JSON-able form that `from_dict` reads back."""
    return {"status": "ok" if isinstance(outcome, Measurement) else "failed", **asdict(outcome)}


def from_dict(values: dict[str, Any]) -> Outcome:
    """The outcome that `to_dict` wrote."""
    fields = dict(values)
    return Measurement(**fields) if fields.pop("status") == "ok" else Failure(**fields)


def machines(placement: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """The machines and GPUs of a placement: the same whichever rank sits where."""
    return sorted((place["node"], tuple(place["gpus"])) for place in placement)
