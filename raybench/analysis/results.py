"""What an analysis found, as frozen records; `to_json` gives the open format described in the ledger's contract.

Ratios are speedups (baseline over arm, above 1 the arm is faster), seconds are seconds, nothing is rounded.
A number that does not exist is None, never nan or infinity.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raybench.analysis.pairs import Pairs

if TYPE_CHECKING:
    from raybench.analysis.costs import Costs
    from raybench.analysis.further import Further, Network
    from raybench.analysis.ladder import Ladder
    from raybench.analysis.largest import LargestBatch
    from raybench.analysis.profiles import Profile
    from raybench.analysis.scaling import BestBatch, Efficiency

SCHEMA_VERSION = 1
Verdict = Literal["helps", "no effect", "hurts", "undecided", "unlocks", "blocked", "both failed", "not comparable"]
VERDICTS: tuple[Verdict, ...] = (
    "helps",
    "no effect",
    "hurts",
    "undecided",
    "unlocks",
    "blocked",
    "both failed",
    "not comparable",
)


@dataclass(frozen=True)
class FailureCause:
    """Legs of one arm that failed for one reason."""

    arm: str
    kind: str
    num_legs: int
    message: str  # the first one's, in the ledger's order


@dataclass(frozen=True)
class Sensitivity:
    """The same comparison, judged another way."""

    kind: str  # `median step`, `steady legs only`, `clean legs only` or `uncut rounds only`
    speedup: float | None
    verdict: str

    def sentence(self) -> str:
        """As a caveat says it."""
        if self.speedup is None:
            return f"with {self.kind} no trial would be left"
        return f"with the {self.kind} the verdict would be {self.verdict!r}"


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline, in one setting on one hardware."""

    setting_id: str
    setting: str
    model: str
    family: str
    dataset: str
    precision: str
    global_batch: int | None
    workers: int | None
    hardware: str
    arm: str
    n_trials: int
    speedup: float | None
    ci_low: float | None  # level 1 - alpha, on the ratio
    ci_high: float | None
    p_value: float | None  # paired t on log ratios, against no difference
    p_adjusted: float | None  # Holm over the analysis
    sign_flip_p: float | None  # exact
    verdict: str
    verdict_low: float | None  # the interval that the verdict came from, on the ratio
    verdict_high: float | None
    verdict_confidence: float | None  # its level
    trials_needed: int | None  # in all, to settle an undecided comparison with a chance of 80 %
    deviation: float | None  # standard deviation of the trials' log ratios
    baseline_seconds: float | None  # geometric mean over trials of the cost, a step (or a sample)
    arm_seconds: float | None
    baseline_samples_per_second: float | None  # geometric mean over trials, all ranks; None for a metric not of steps
    arm_samples_per_second: float | None
    seconds_per: str  # what the seconds are of: `step`, `sample`, or another metric's name
    failures: int  # failed legs, of the arm and of the baseline
    failure_causes: tuple[FailureCause, ...]
    memory_ratio: float | None  # peak of the arm over the baseline's: below 1 the arm needs less
    memory_ratio_low: float | None
    memory_ratio_high: float | None
    memory_of: str | None  # `device` or `host`
    baseline_memory_bytes: float | None  # geometric mean over trials
    arm_memory_bytes: float | None
    memory_saved_bytes: float | None  # baseline minus arm, mean over trials
    memory_saved_low: float | None
    memory_saved_high: float | None
    baseline_memory_parts: dict[str, float] | None  # bytes by what they hold, of the rank that holds most
    arm_memory_parts: dict[str, float] | None
    accuracy_difference: float | None  # arm minus baseline
    accuracy_low: float | None
    accuracy_high: float | None
    quality: str | None  # `not worse`, `worse` or `unclear`; None without accuracies
    break_even_steps: float | None  # until a longer set-up is repaid; None where never, or not known
    break_even_low: float | None
    break_even_high: float | None  # None also where it is not bounded
    baseline_step_p50_seconds: float | None  # percentiles of the measured steps, geometric mean over trials
    baseline_step_p90_seconds: float | None
    baseline_step_p99_seconds: float | None
    arm_step_p50_seconds: float | None
    arm_step_p90_seconds: float | None
    arm_step_p99_seconds: float | None
    flops_per_sample: float | None  # of a training step: 3 x the plain model's forward pass, the same for every arm
    baseline_tflops: float | None  # achieved, 10^12 floating-point operations a second of all workers together
    arm_tflops: float | None
    baseline_peak_share: float | None  # achieved over the peak of the workers' devices; None where it is not known
    arm_peak_share: float | None
    peak: str | None  # which peak: the device's, for what type, and by whom it is said
    differs: tuple[str, ...]  # what the space declares the arms to differ in, beside the engine
    sensitivity: tuple[Sensitivity, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its settings: a distribution of speedups, and a count of verdicts."""

    arm: str
    hardware: str
    n_settings: int  # all settings, whatever came of them
    n_compared: int  # those with a speedup, which the means are over
    geometric_mean: float | None
    ci_low: float | None  # for the mean of a population of settings like these (t on setting means)
    ci_high: float | None
    prediction_low: float | None  # for one more setting like these
    prediction_high: float | None
    fixed_low: float | None  # for the mean of these very settings (within-setting errors only)
    fixed_high: float | None
    median: float | None
    quartile_low: float | None
    quartile_high: float | None
    tau: float | None  # standard deviation of true log speedups between settings (DerSimonian-Laird)
    i_squared: float | None  # the share of the variance between settings that is not noise
    helps: int
    no_effect: int
    hurts: int
    undecided: int
    unlocks: int
    blocked: int
    both_failed: int
    not_comparable: int


@dataclass(frozen=True)
class GroupSummary:
    """An arm over the settings of one family, dataset, ...: `by` is the column, `value` its value."""

    by: str
    value: str
    summary: ArmSummary


@dataclass(frozen=True)
class Analysis:
    """Everything that was found in the ledgers, and under which question it was asked."""

    margin: float
    alpha: float
    baseline: str
    metric: str
    quality_margin: float  # accuracy that an arm may lose and still count as equal
    pool_hardware: bool  # legs of different machines taken as of one
    chain: tuple[str, ...]  # the arms taken apart as a ladder; empty for none
    comparisons: tuple[Comparison, ...]
    arms: tuple[ArmSummary, ...]
    groups: tuple[GroupSummary, ...]
    ladders: tuple[Ladder, ...]
    profiles: tuple[Profile, ...]
    scaling: tuple[Efficiency, ...]
    best: tuple[BestBatch, ...]
    largest: tuple[LargestBatch, ...]  # how each arm's largest batch was found, where it was sought
    costs: Costs  # where the machines' time went
    further: tuple[Further, ...]  # what else was measured: the quantities that have a heading
    networks: tuple[Network, ...]  # between the nodes of trials; empty where every trial had one node
    caveats: tuple[str, ...]  # of the whole analysis
    ledgers: tuple[str, ...]
    sweeps: tuple[str, ...]
    hardware: tuple[str, ...]
    versions: tuple[str, ...]
    num_legs: int
    num_failed_legs: int
    pairs: Pairs = field(repr=False, compare=False)  # the trials behind it, for analyses that go on from here

    def to_json(self) -> dict[str, Any]:
        """The analysis as plain dicts, lists, numbers and None, as `--json` prints it."""
        own = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "pairs"}
        return {"schema_version": SCHEMA_VERSION, **own}


def plain(value: Any) -> Any:
    """Records, arrays and NumPy numbers as what JSON knows; nan and infinity as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def number(value: float) -> float | None:
    """A Python float, or None for nan and infinity."""
    return float(value) if np.isfinite(value) else None


def ratio(log: float) -> float | None:
    """A log ratio as a ratio, or None where there is none, or none that a number can hold."""
    with np.errstate(over="ignore"):
        return number(float(np.exp(log)))
