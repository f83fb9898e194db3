"""The results of an analysis as frozen records. `Analysis.to_json` (in `analysis`) gives the contract's open format.

Ratios are speedups (baseline over arm, above 1 the arm is faster), seconds are seconds, nothing is rounded. A missing
number is None, never nan or infinity. The open format is flat: a record's `COLUMNS` maps each of its names to the
place of the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from raybench.caveats import Caveat
from raybench.statistics.estimate import Estimate

Verdict = Literal[
    "helps", "no effect", "hurts", "undecided", "unlocks", "blocked", "failed", "both failed", "not comparable"
]  # fmt: skip
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)


@dataclass(frozen=True)
class FailureCause:
    """Legs of one arm that failed for the same reason."""

    arm: str
    kind: str
    num_legs: int
    message: str  # of the first such leg in the ledger's order


@dataclass(frozen=True)
class Sensitivity:
    """The same comparison, judged another way."""

    kind: str  # `median step`, `steady legs only`, `clean legs only` or `uncut rounds only`
    speedup: float | None
    verdict: str


@dataclass(frozen=True)
class Where:
    """The setting and the hardware that a comparison was measured on."""

    setting_id: str
    setting: str
    model: str
    family: str
    dataset: str
    precision: str
    global_batch: int | None
    workers: int | None
    hardware: str


@dataclass(frozen=True)
class Judgement:
    """A comparison's verdict and the numbers behind it."""

    verdict: Verdict
    p_value: float | None  # paired t on log ratios, against no difference
    p_adjusted: float | None  # of the claim, over all claims of the analysis; at most alpha exactly where one is made
    sign_flip_p: float | None  # exact
    interval: Estimate  # the speedup, with the interval behind the verdict
    trials_needed: int | None  # in total, to settle an undecided comparison with 80 % power
    deviation: float | None  # standard deviation of the trials' log ratios


@dataclass(frozen=True)
class Side:
    """One arm's numbers in one setting: geometric means over the comparison's trials."""

    seconds: float | None  # the cost, per `Comparison.seconds_per`
    samples_per_second: float | None  # all ranks together; None for a metric that is not about steps
    tokens_per_second: float | None  # all ranks together; None where samples have no tokens
    step_p50_seconds: float | None  # percentiles of the measured steps
    step_p90_seconds: float | None
    step_p99_seconds: float | None
    memory_bytes: float | None  # peak
    memory_parts: dict[str, float] | None  # bytes by content, on the rank that holds most
    predicted_memory: dict[str, float] | None  # the same, predicted by ZeRO's formulas; `device` and `host` are sums
    bucket_bytes: float | None  # part of the peak taken by ZeRO's communication buckets; None without them
    tflops: float | None  # achieved 10^12 floating-point operations a second, all workers together
    peak_share: float | None  # achieved over the peak of the workers' devices; None where that is unknown
    matmul_share: float | None  # achieved over what a matrix product reached on these devices


@dataclass(frozen=True)
class Memory:
    """An arm's peak memory beside the baseline's."""

    ratio: Estimate  # arm over baseline: below 1 the arm needs less
    saved: Estimate  # bytes, baseline minus arm
    of: str | None  # `device` or `host`


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline, in one setting on one hardware."""

    where: Where
    arm: str
    n_trials: int
    speedup: Estimate
    judgement: Judgement
    baseline: Side
    treated: Side  # the arm's side
    seconds_per: str  # `step`, `sample`, or another metric's name
    memory: Memory
    accuracy: Estimate  # arm minus baseline
    quality: str | None  # `not worse`, `worse` or `unclear`; None where nothing was evaluated
    break_even: Estimate  # steps until a longer set-up is repaid; None where never or unknown
    flops_per_sample: float | None  # of a training step: 3 x the plain model's forward pass, the same for every arm
    peak: str | None  # which peak: whose device, for which type, and the source
    failure_causes: tuple[FailureCause, ...]
    never_ran: tuple[str, ...]  # of the two arms, those without a measured leg
    differs: tuple[str, ...]  # differences between the arms that the space declares, besides the engine
    sensitivity: tuple[Sensitivity, ...]
    caveats: tuple[Caveat, ...]

    COLUMNS: ClassVar[Mapping[str, str]] = {
        **{name: f"where.{name}" for name in Where.__dataclass_fields__},
        "arm": "arm",
        "n_trials": "n_trials",
        "speedup": "speedup.value",
        "ci_low": "speedup.low",
        "ci_high": "speedup.high",
        "p_value": "judgement.p_value",
        "p_adjusted": "judgement.p_adjusted",
        "sign_flip_p": "judgement.sign_flip_p",
        "verdict": "judgement.verdict",
        "verdict_low": "judgement.interval.low",
        "verdict_high": "judgement.interval.high",
        "verdict_confidence": "judgement.interval.level",
        "trials_needed": "judgement.trials_needed",
        "deviation": "judgement.deviation",
        "baseline_seconds": "baseline.seconds",
        "arm_seconds": "treated.seconds",
        "baseline_samples_per_second": "baseline.samples_per_second",
        "arm_samples_per_second": "treated.samples_per_second",
        "baseline_tokens_per_second": "baseline.tokens_per_second",
        "arm_tokens_per_second": "treated.tokens_per_second",
        "seconds_per": "seconds_per",
        "failures": "failures",
        "failure_causes": "failure_causes",
        "memory_ratio": "memory.ratio.value",
        "memory_ratio_low": "memory.ratio.low",
        "memory_ratio_high": "memory.ratio.high",
        "memory_of": "memory.of",
        "baseline_memory_bytes": "baseline.memory_bytes",
        "arm_memory_bytes": "treated.memory_bytes",
        "memory_saved_bytes": "memory.saved.value",
        "memory_saved_low": "memory.saved.low",
        "memory_saved_high": "memory.saved.high",
        "baseline_memory_parts": "baseline.memory_parts",
        "arm_memory_parts": "treated.memory_parts",
        "baseline_predicted_memory": "baseline.predicted_memory",
        "arm_predicted_memory": "treated.predicted_memory",
        "baseline_bucket_bytes": "baseline.bucket_bytes",
        "arm_bucket_bytes": "treated.bucket_bytes",
        "accuracy_difference": "accuracy.value",
        "accuracy_low": "accuracy.low",
        "accuracy_high": "accuracy.high",
        "quality": "quality",
        "break_even_steps": "break_even.value",
        "break_even_low": "break_even.low",
        "break_even_high": "break_even.high",
        "baseline_step_p50_seconds": "baseline.step_p50_seconds",
        "baseline_step_p90_seconds": "baseline.step_p90_seconds",
        "baseline_step_p99_seconds": "baseline.step_p99_seconds",
        "arm_step_p50_seconds": "treated.step_p50_seconds",
        "arm_step_p90_seconds": "treated.step_p90_seconds",
        "arm_step_p99_seconds": "treated.step_p99_seconds",
        "flops_per_sample": "flops_per_sample",
        "baseline_tflops": "baseline.tflops",
        "arm_tflops": "treated.tflops",
        "baseline_peak_share": "baseline.peak_share",
        "arm_peak_share": "treated.peak_share",
        "baseline_matmul_share": "baseline.matmul_share",
        "arm_matmul_share": "treated.matmul_share",
        "peak": "peak",
        "differs": "differs",
        "sensitivity": "sensitivity",
        "caveats": "caveats",
    }

    @property
    def verdict(self) -> Verdict:
        """The judgement's verdict."""
        return self.judgement.verdict

    @property
    def failures(self) -> int:
        """Failed legs of the arm and of the baseline."""
        return sum(cause.num_legs for cause in self.failure_causes)


@dataclass(frozen=True)
class Tally:
    """The number of settings with each verdict."""

    helps: int
    no_effect: int
    hurts: int
    undecided: int
    unlocks: int
    blocked: int
    both_failed: int
    not_comparable: int
    failed: int

    def __getitem__(self, verdict: Verdict) -> int:
        return int(getattr(self, verdict.replace(" ", "_")))


@dataclass(frozen=True)
class FamilyPrediction:
    """What to expect of one more model of a measured family."""

    family: str
    speedup: Estimate  # the family's geometric mean over models, with a prediction interval

    COLUMNS: ClassVar[Mapping[str, str]] = {
        "family": "family",
        "n_models": "speedup.n",
        "speedup": "speedup.value",
        "prediction_low": "speedup.low",
        "prediction_high": "speedup.high",
    }


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its settings: a distribution of speedups, and counts of verdicts."""

    arm: str
    hardware: str
    n_settings: int  # all settings, whatever their outcome
    n_compared: int  # those with a speedup; the means are over these
    population: Estimate  # geometric mean over models (a model's settings are averaged), and its t interval
    prediction: Estimate  # for one more model; of a new family, if several were measured
    predictions: tuple[FamilyPrediction, ...]  # for one more model of each measured family
    fixed: Estimate  # geometric mean of exactly these settings; only trial noise makes it uncertain
    verdict: Verdict  # over exactly these settings
    verdict_interval: Estimate  # the interval behind that verdict
    quartiles: Estimate  # median and quartiles of the speedups; not a confidence interval
    tau: float | None  # standard deviation of true log speedups between settings (DerSimonian-Laird)
    i_squared: float | None  # share of the variance between settings that is not noise
    tally: Tally

    COLUMNS: ClassVar[Mapping[str, str]] = {
        "arm": "arm",
        "hardware": "hardware",
        "n_settings": "n_settings",
        "n_compared": "n_compared",
        "geometric_mean": "fixed.value",
        "n_models": "population.n",
        "model_mean": "population.value",
        "ci_low": "population.low",
        "ci_high": "population.high",
        "prediction_low": "prediction.low",
        "prediction_high": "prediction.high",
        "fixed_low": "fixed.low",
        "fixed_high": "fixed.high",
        "verdict": "verdict",
        "verdict_low": "verdict_interval.low",
        "verdict_high": "verdict_interval.high",
        "verdict_confidence": "verdict_interval.level",
        "predictions": "predictions",
        "median": "quartiles.value",
        "quartile_low": "quartiles.low",
        "quartile_high": "quartiles.high",
        "tau": "tau",
        "i_squared": "i_squared",
        **{name: f"tally.{name}" for name in Tally.__dataclass_fields__},
    }


@dataclass(frozen=True)
class GroupSummary:
    """An arm over the settings of one family, dataset, ...: `by` is the column, `value` its value."""

    by: str
    value: str
    summary: ArmSummary
