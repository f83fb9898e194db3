"""Sentences for the records of an analysis. Numbers become text in `units`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from raybench.analysis import Analysis, ArmSummary, Comparison, Sensitivity
from raybench.analysis.across.prediction import NUMERIC, Explanation, Prediction
from raybench.analysis.question import METRICS
from raybench.analysis.results import Side
from raybench.analysis.views.ladder import Ladder
from raybench.analysis.views.scaling import BestBatch, Efficiency, LargestBatch
from raybench.show import units
from raybench.show.memory_table import bucket_growth
from raybench.show.units import between, percent, size
from raybench.statistics.estimate import Estimate
from raybench.statistics.moderation import LEAST_COMPARISONS

# In the order of interest to readers.
MEANINGS: Final = {
    "helps": "the arm is faster by more than the margin",
    "hurts": "the arm is slower by more than the margin",
    "no effect": "shown to be within the margin; absence of evidence is not this",
    "unlocks": "only the arm ran: the baseline did not fit into memory",
    "blocked": "only the baseline ran: the arm did not fit into memory",
    "failed": "one side failed, and not for want of memory",
    "both failed": "neither side ran",
    "not comparable": "the arms were not the same experiment, so there is no verdict",
    "undecided": "the interval allows more than one of these; more trials would settle it",
}
MIN_SETTINGS: Final = 3  # for fewer, no interval for a population of settings is shown; --json has all of them
_MANY_TRIALS: Final = 1000  # larger numbers are shown as more than this
_FAMILY: Final = {
    "holm": "Holm's step over {n:,} comparisons",
    "fdr": "Benjamini and Hochberg's step over {n:,} comparisons",
}


@dataclass(frozen=True)
class ArmAnswer:
    """The answer about one arm on one hardware."""

    summary: ArmSummary
    verdict: str
    interval: Estimate  # the interval behind the verdict
    sentence: str  # the arm's verdict with its interval
    counts: str  # the settings' verdicts

    @property
    def text(self) -> str:
        """The sentence and the counts."""
        return f"{self.sentence}{f'; {self.counts}' if self.counts else ''}."


def setting_of(c: Comparison, analysis: Analysis) -> str:
    """A comparison's setting, with its hardware if there are several."""
    several = len(analysis.hardware) > 1
    return f"{c.where.setting} ({c.where.hardware or 'hardware not named'})" if several else c.where.setting


def answer_in_words(analysis: Analysis) -> str:
    """A paragraph: one sentence per arm and hardware, and whether any arm helps."""
    several = len({arm.hardware for arm in analysis.arms}) > 1
    sentences = [
        (f"On {one.summary.hardware or 'hardware that is not named'}, " if several else "")
        + f"{one.summary.arm} {one.text}"
        for one in arm_answers(analysis)
    ]
    closing = none_helps(analysis)
    return " ".join([*sentences, *([closing] if closing else [])])


def none_helps(analysis: Analysis) -> str:
    """The sentence that no arm was shown to be faster; empty where one was."""
    helps = any(c.verdict == "helps" for c in analysis.comparisons) or any(
        one.verdict == "helps" for one in arm_answers(analysis)
    )
    if len(analysis.arms) < 2 or helps:
        return ""
    better = "be faster" if ratio_name(analysis) == "speedup" else "take less memory"
    return f"No arm is shown to {better} than {analysis.baseline} by more than {percent(analysis.margin)}."


def ratio_name(analysis: Analysis) -> str:
    """What the baseline's cost over the arm's is called: a `speedup`, or the `memory ratio`."""
    return "memory ratio" if METRICS[analysis.metric].per == "byte" else "speedup"


def ratio_meaning(analysis: Analysis) -> str:
    """As `Speedup is ddp's time over the arm's`; with what is compared, where that is not the step."""
    metric = METRICS[analysis.metric]
    if metric.per == "byte":
        return f"The memory ratio is {analysis.baseline}'s {metric.meaning}, over the arm's"
    of = "" if metric.name == "step_seconds" else f" ({metric.meaning})"
    return f"Speedup is {analysis.baseline}'s time{of} over the arm's"


def meanings(analysis: Analysis) -> Mapping[str, str]:
    """What each verdict means."""
    if METRICS[analysis.metric].per != "byte":
        return MEANINGS
    return MEANINGS | {
        "helps": "the arm takes less memory by more than the margin",
        "hurts": "the arm takes more memory by more than the margin",
    }


def arm_answers(analysis: Analysis) -> list[ArmAnswer]:
    """One answer for each arm on each hardware, in the analysis's order."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for c in analysis.comparisons:
        groups.setdefault((c.where.hardware, c.arm), []).append(c)
    return [_arm_answer(arm, groups[arm.hardware, arm.arm], analysis) for arm in analysis.arms]


def _arm_answer(arm: ArmSummary, members: Sequence[Comparison], analysis: Analysis) -> ArmAnswer:
    """For a single setting, its verdict is the arm's; over several settings the arm has its own verdict."""
    more = _settle(members) + _less_accurate(members)
    if len(members) == 1:
        judgement = members[0].judgement
        told = _judged(judgement.verdict, judgement.interval, members, analysis)
        more = more.removeprefix("; ")
        return ArmAnswer(arm, judgement.verdict, judgement.interval, f"{told} in the one setting", more)
    counts = f"by setting: {tally(arm)}{more}"
    if arm.n_compared == 0:
        told = f"{_judged(arm.verdict, arm.fixed, members, analysis)}: no setting has a speedup"
        return ArmAnswer(arm, arm.verdict, arm.fixed, told, counts)
    verdict, interval = arm.verdict, arm.verdict_interval
    those = f"all {arm.n_settings}" if arm.n_compared == arm.n_settings else f"{arm.n_compared} of {arm.n_settings}"
    return ArmAnswer(
        arm, verdict, interval, f"{_judged(verdict, interval, members, analysis)} over {those} settings", counts
    )


def _judged(verdict: str, interval: Estimate, members: Sequence[Comparison], analysis: Analysis) -> str:
    """As `hurts: it takes 1.43 times as long as ddp (speedup 0.703, 0.682 to 0.724)`."""
    numbers = "" if interval.value is None else f"{ratio_name(analysis)} {units.ratio(interval.value)}"
    if numbers and (ends := units.interval(interval)):
        numbers += f", {ends}"
    told = f" ({numbers})" if numbers else ""
    match verdict:
        case "helps" | "hurts":
            change = units.change(interval.value or 1.0, METRICS[analysis.metric].per)
            return f"{verdict}: it {change} as {analysis.baseline}{told}"
        case "no effect":
            return f"has no effect beyond {percent(analysis.margin)}{told}"
        case "undecided":
            return f"is undecided{told}"
        case "unlocks":
            return "unlocks what the baseline has no memory for"
        case "blocked":
            return "is blocked: it has no memory where the baseline runs"
        case "failed":
            never = [analysis.baseline in c.never_ran for c in members if c.verdict == "failed"]
            if all(never):
                return f"has no verdict, because {analysis.baseline} failed (not for want of memory)"
            others = f", or {analysis.baseline} did," if any(never) else ""
            return f"failed{others} (not for want of memory)"
        case "both failed":
            return "failed, and so did the baseline"
    return f"is not comparable: the arms were not the same experiment{told}"


def _settle(members: Sequence[Comparison]) -> str:
    needed = [c.judgement.trials_needed for c in members if c.judgement.trials_needed]
    if not needed:
        return ""
    least, most = min(needed), max(needed)
    trials = f"{least:,} trials" if least == most else f"{least:,} to {most:,} trials"
    if most > _MANY_TRIALS and least <= _MANY_TRIALS:
        trials = f"{least:,} to more than {_MANY_TRIALS:,} trials"
    undecided = sum(c.verdict == "undecided" for c in members)
    whom = "it" if undecided == 1 else "them" if len(needed) == undecided else "most of them"
    return f"; about {trials} would settle {whom}"


def _less_accurate(members: Sequence[Comparison]) -> str:
    worse = sum(c.quality == "worse" for c in members)
    return f"; it is less accurate than the baseline on {worse} of {len(members)}" if worse else ""


def _tallied(arm: ArmSummary, verdict: str) -> int:
    return int(getattr(arm.tally, verdict.replace(" ", "_"), 0))


def tally(arm: ArmSummary) -> str:
    """The number of settings with each verdict that occurs."""
    counts = {verdict: _tallied(arm, verdict) for verdict in MEANINGS}
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)


def verdict_of(c: Comparison) -> str:
    """A comparison's verdict, with its accuracy result if any."""
    return f"{c.verdict}, less accurate" if c.quality == "worse" else c.verdict


def also_differ(analysis: Analysis) -> tuple[str, ...]:
    """The note for every table and figure where arms differ, as declared in the space, in more than the engine."""
    words = dict.fromkeys(word for c in analysis.comparisons for word in c.differs)
    return (f"arms also differ in {', '.join(words)}, as the space declares",) if words else ()


def multiplicity(analysis: Analysis) -> str:
    """The name of the correction for multiple comparisons, for captions: `Holm` or `false discovery rate`."""
    return "false discovery rate" if analysis.multiplicity == "fdr" else "Holm"


def how_obtained(analysis: Analysis) -> list[str]:
    """The method and the data in a few lines."""
    step = _FAMILY[analysis.multiplicity].format(n=len(analysis.comparisons))
    return [
        f"{analysis.num_legs:,} legs ({analysis.num_failed_legs:,} failed) of {', '.join(analysis.sweeps)}; "
        f"the sample is the trial, n of them; metric: {analysis.metric}",
        f"Intervals are paired t on log ratios{_lent(analysis)}, each the one its verdict came from: "
        f"{percent(1 - analysis.alpha)} or wider, by {step}; “helps”, “hurts” and “no effect” all count as claims",
        f"An effect within {percent(analysis.margin)} counts as none; alpha is {analysis.alpha:g}",
        *_other_question(analysis),
        *(f"Hardware: {name}" for name in analysis.hardware),
        *(f"Versions: {name}" for name in analysis.versions),
    ]


def _lent(analysis: Analysis) -> str:
    """Whose noise an interval is based on, if not only the comparison's own."""
    measured = Counter(c.where.hardware for c in analysis.comparisons if c.n_trials > 1)
    lent = analysis.variance == "moderated" and max(measured.values(), default=0) >= LEAST_COMPARISONS
    return ", the noise of each learned from all of the sweep" if lent else ""


def _other_question(analysis: Analysis) -> list[str]:
    """Where legs had an accuracy target and were judged by something else: how to ask for the target."""
    legs = analysis.pairs.legs
    if analysis.metric == "time_to_accuracy" or np.isnan(legs.number["time_to_accuracy"][legs.ok]).all():
        return []
    return ["The legs had an accuracy to reach: metric=time_to_accuracy compares the training seconds up to there"]


def trade_off(c: Comparison) -> str | None:
    """A setting's other costs and gains, as `zero3 costs 38 % [31, 44] of the throughput of resnet18 and saves 5.10 GiB
    [5.01 GiB, 5.19 GiB] of device memory`; None where memory differs by under 1 % or within its noise.
    """
    speedup, memory, saved = c.speedup.value, c.memory.ratio, c.memory.saved
    if speedup is None or memory.value is None or saved.value is None or abs(memory.value - 1) < 0.01:
        return None
    if c.seconds_per == "byte":
        return None
    if memory.low is not None and memory.high is not None and memory.low < 1 < memory.high:
        return None
    change = speedup - 1
    speed = f"{'gains' if change > 0 else 'costs'} {percent(abs(change))}"
    if c.speedup.low is not None and c.speedup.high is not None:
        sign = 100 if change > 0 else -100
        ends = sorted((sign * (c.speedup.low - 1), sign * (c.speedup.high - 1)))
        speed += f" [{ends[0]:z.0f}, {ends[1]:z.0f}]"
    amount = f"{'saves' if saved.value > 0 else 'takes'} {size(abs(saved.value))}"
    if saved.low is not None and saved.high is not None:
        low, high = sorted(end if saved.value > 0 else -end for end in (saved.low, saved.high))
        amount += f" [{size(low)}, {size(high)}]"
    more = "of" if saved.value > 0 else "more"
    buckets = bucket_growth(c)
    why = f"; ZeRO's communication buckets are {size(buckets)}" if buckets else ""
    return f"{c.arm} {speed} of the throughput of {c.where.setting} and {amount} {more} {c.memory.of} memory{why}"


def memory_held(c: Comparison) -> str | None:
    """What differs, as `zero1 in resnet18: a rank holds optimizer state 85.3 MiB against 170.6 MiB`; else None."""
    arm, base = c.treated.memory_parts, c.baseline.memory_parts
    if arm is None or base is None or not c.n_trials:
        return None
    differing = [
        f"{part.replace('_', ' ')} {size(arm[part])} against {size(base[part])}"
        for part in arm
        if part in base and abs(arm[part] - base[part]) > 0.01 * sum(base.values())
    ]
    return f"{c.arm} in {c.where.setting}: a rank holds {', '.join(differing)}" if differing else None


def work_done(c: Comparison) -> str | None:
    """As `zero1 in gpt2: 8,200 tokens/s, 1.21 TFLOP/s (61 % of the peak) against 8,900 tokens/s, 1.30 TFLOP/s (65 % of
    the peak); the peak is ...`; else None."""
    if c.treated.tflops is None or c.baseline.tflops is None:
        return None
    sides = [_work_of(side) for side in (c.treated, c.baseline)]
    peak = "" if c.peak is None else f"; the peak is {c.peak}"
    return f"{c.arm} in {c.where.setting}: {sides[0]} against {sides[1]}{peak}"


def _work_of(side: Side) -> str:
    share = None if side.peak_share is None else percent(side.peak_share) if side.peak_share >= 5e-4 else "under 0.1 %"
    shares = [f"{share} of the peak"] if share else []
    if side.matmul_share is not None and side.matmul_share != side.peak_share:
        shares.append(f"{percent(side.matmul_share)} of a matrix product")
    rate = f"{units.rate(side.tokens_per_second, 'tokens')}, " if side.tokens_per_second is not None else ""
    of_what = f" ({', '.join(shares)})" if shares else ""
    return f"{rate}{side.tflops:.3g} TFLOP/s{of_what}"


def break_even(c: Comparison) -> str | None:
    """As `zero1 in resnet18: a longer set-up is repaid after 1,200 steps [900, 1,700]`; else None."""
    steps = c.break_even
    if c.verdict != "helps" or not steps.value:
        return None
    low = "0" if steps.low is None else f"{steps.low:,.0f}"
    high = "?" if steps.high is None else f"{steps.high:,.0f}"
    return f"{c.arm} in {c.where.setting}: a longer set-up is repaid after {steps.value:,.0f} steps [{low}, {high}]"


def rungs_in_words(ladder: Ladder) -> str:
    """As `of the 3.10x from a to d, 2.40x is b (global_batch 4 -> 16), ...`."""
    parts = [
        f"{_times(rung.ratio.value)} [{_times(rung.ratio.low)}, {_times(rung.ratio.high)}] is {rung.arm}"
        + (f" ({rung.change})" if rung.change else "")
        for rung in ladder.rungs
    ]
    where = f"{ladder.setting}: " if ladder.setting else "over the settings: "
    ends = f"from {ladder.rungs[0].before} to {ladder.rungs[-1].arm}"
    return f"{where}of the {_times(ladder.total.value)} {ends}, {', '.join(parts)}"


def _times(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}x"


def largest_in_words(one: LargestBatch) -> str:
    """As `zero1 in resnet18 ...: 48 samples a worker, 96 in all (1,872 MiB); 49 do not fit: ...`."""
    where = f"{one.arm} in {one.setting}"
    peak = "" if one.peak_bytes is None else f" ({one.peak_bytes / 2**20:,.0f} MiB)"
    took = f"{one.micro_batch} samples a worker, {one.global_batch} in all{peak}"
    if one.micro_batch is None:
        return f"{where}: no batch fits, not even one sample: {one.refused_because}"
    if one.refused_batch is None:
        return f"{where}: {took}; the dataset has no more for one step"
    return f"{where}: {took}; {one.refused_batch} do not fit: {one.refused_because}"


def best_in_words(one: BestBatch) -> str:
    """The arm at its best batch against the baseline at its own."""
    interval = units.interval(one.speedup) or "no interval"
    return (
        f"{one.arm} at {one.batch} samples a step against {one.baseline_batch}, {one.model} {one.precision} on "
        f"{one.workers} workers: {units.ratio(one.speedup.value)} ({interval}) of samples a second"
    )


def scaling_in_words(one: Efficiency) -> str:
    """An arm's efficiency on more workers."""
    interval = units.interval(one.efficiency) or "no interval"
    return (
        f"{one.arm}, {one.model} {one.precision}, {one.scaling} from {one.base_workers} to {one.workers} workers: "
        f"efficiency {units.ratio(one.efficiency.value)} ({interval})"
    )


def order_in_words(analysis: Analysis) -> list[str]:
    """Effects of the order of legs and of trials, each with the smallest effect that could have been detected."""
    lines = [
        f"A step of another engine right after a leg of {one.engine} takes {units.ratio(one.effect.value)} times as "
        f"long ({units.interval(one.effect)}) as otherwise, from {units.count(one.effect.n, 'trial')}; "
        f"an effect of {units.percent(one.detectable - 1)} would be seen four times in five"
        + (f" ({one.hardware})" if len(analysis.hardware) > 1 else "")
        for one in analysis.carry_over
    ]
    if (alike := analysis.dependence) is not None:
        lines.append(
            f"Trials that follow one another in time: correlation {alike.correlation:.2f} (p {alike.p_value:.2g}) over "
            f"{units.count(alike.n_settings, 'setting')}; intervals take trials as independent"
        )
    return lines


def otherwise(c: Comparison, other: Sensitivity) -> str:
    """The verdict of a comparison when judged another way."""
    if other.speedup is None:
        return f"{c.arm}, {c.where.setting}: {c.verdict}; with {other.kind} no trial would be left"
    return f"{c.arm}, {c.where.setting}: {c.verdict}; with {other.kind} {other.verdict} ({units.ratio(other.speedup)})"


def predicted(one: Prediction, wanted: Mapping[str, Any], alpha: float) -> str:
    """The prediction in words."""
    ends = between(one.low, one.high).replace(" to ", " and ")
    interval = f" {units.ratio(one.speedup)}, {percent(1 - alpha)} of the time between {ends}" if ends else ""
    basis = f"from {units.count(one.num_settings, 'setting')} of {units.count(one.num_models, 'model')}"
    if one.coverage is not None:
        basis += f"; on left-out models such intervals held {percent(one.coverage)} of the time"
    if one.explained is not None and one.features:
        basis += f"; {', '.join(one.features)} explain {percent(max(0.0, one.explained))} of the variance"
    why = f": {'; '.join(one.reasons)}" if one.reasons else ""
    known = "" if one.measured is None else f" It was measured: {units.ratio(one.measured)}."
    expected = f", expected{interval}" if interval else ""
    return f"{one.arm} on {wanted['model']}: {one.answer}{why}{expected} ({basis}).{known}"


def explained(one: Explanation) -> str:
    """The explanation in words: the effect of doubling a feature, or of a kind of setting."""
    if not one.num_settings:
        return f"{one.arm}: no setting of it has a speedup, so nothing is known of what changes it."
    basis = f"{units.count(one.num_settings, 'setting')} of {units.count(one.num_models, 'model')}"
    if not one.features or one.explained is None:
        return f"{one.arm}: nothing that is known before a run explains its speedups ({basis})."
    parts = [
        f"{100 * math.expm1(value * math.log(2)):+.1f} % with twice the {name}"
        if name in NUMERIC
        else f"{100 * math.expm1(value):+.1f} % with {name}"
        for name, value in one.features.items()
    ]
    return f"{one.arm}: the speedup changes by {', '.join(parts)}; that explains {percent(one.explained)} ({basis})."
