"""The protocol: what every leg does with its engine, the same in all arms. No ray and no torch here.

`throughput` measures a number of steps; `train` runs whole epochs with evaluation between them, to the last or to a
target. A mapping without `kind` is `throughput`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from raybench.declare.setting import Positive, Strict

MOST_STEPS = 1_000_000  # of one window: every step's time is kept in memory and in a row
NumSteps = Annotated[int, Field(ge=2, le=MOST_STEPS)]


class Throughput(Strict):
    """Measure steps: in each of `rounds` rounds, `warmup_steps` kept but not measured, then `steps` measured.

    `steps: auto` chooses a number for each setting from its baseline's steps (`raybench.statistics.num_steps`).
    """

    kind: Literal["throughput"] = "throughput"
    warmup_steps: int = Field(default=20, ge=1, le=MOST_STEPS)
    steps: NumSteps | Literal["auto"] = 100
    rounds: Positive = 2
    phases: bool = True  # time forward, backward and optimizer step separately
    telemetry: bool = True  # sample the machine in a separate process while steps are measured
    evaluate: bool = False  # once, after the last step


class Train(Strict):
    """Train for `epochs` whole epochs, with evaluation outside the timed steps after every `evaluate_every` of them
    and after the last.

    With a `target_accuracy` (a fraction, top-1) or a `target_loss`, a leg ends with the epoch that reaches it, unless
    `stop_at_target` is off. The first `warmup_steps` of the first epoch count as training time but not as measured
    steps.
    """

    kind: Literal["train"]
    epochs: Positive
    warmup_steps: int = Field(default=10, ge=1, le=MOST_STEPS)
    rounds: Positive = 1
    phases: bool = True  # time forward, backward and optimizer step separately
    telemetry: bool = True  # sample the machine in a separate process while steps are measured
    target_accuracy: float | None = Field(default=None, gt=0, le=1)
    target_loss: float | None = Field(default=None, gt=0)  # mean held-out loss, for a task without an accuracy
    stop_at_target: bool = True
    evaluate_every: Positive = 1  # epochs


@dataclass(frozen=True)
class StepChoice:
    """The choice of `steps: auto` for a setting, and its inputs; None without a pilot."""

    steps: int
    pilot_steps: int = 0
    step_seconds: float | None = None  # mean of the pilot's
    step_scatter: float | None = None  # relative standard deviation of a step
    autocorrelation_steps: float | None = None  # tau
    leg_scatter: float | None = None  # L
    leg_scatter_degrees: int = 0  # pairs of rounds seen so far in the sweep
    beside_seconds: float | None = None  # C
    optimum: float | None = None  # n before limits are applied
    problem: str = ""


# The fields that switch on an instrument; a calibration measures what each costs.
INSTRUMENTS: Final = ("phases", "telemetry")


def _with_kind(values: Any) -> Any:
    return {"kind": "throughput", **values} if isinstance(values, Mapping) else values


Protocol = Annotated[Throughput | Train, Field(discriminator="kind"), BeforeValidator(_with_kind)]


def evaluates(protocol: Throughput | Train) -> bool:
    """Whether a leg is evaluated on the test split."""
    return isinstance(protocol, Train) or protocol.evaluate


def steps_or(protocol: Throughput | Train, otherwise: int) -> int:
    """A protocol's number of measured steps; `otherwise` where it is open or the protocol has epochs."""
    return protocol.steps if isinstance(protocol, Throughput) and protocol.steps != "auto" else otherwise
