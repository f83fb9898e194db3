"""From pairs to records: one `Comparison` per arm and setting, with verdict, trade-offs and caveats.

The verdict is decided in this order. Without a paired trial: `unlocks` or `blocked` where one side ran out of memory
and the other ran, `failed` where one side failed for another reason, `both failed`, or `undecided` where nothing ran
side by side. Where the arms were not the same experiment: `not comparable`, with numbers but without a claim. Else:
the verdict of `raybench.statistics.claims.judge`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from raybench.analysis import checks, tradeoffs
from raybench.analysis.arrays import code_of
from raybench.analysis.comparability import declared, undeclared_differences, without_facts
from raybench.analysis.pairs import Mask, Pairs
from raybench.analysis.question import Metric
from raybench.analysis.results import (
    VERDICTS,
    Comparison,
    FailureCause,
    Judgement,
    Memory,
    Sensitivity,
    Side,
    Verdict,
    Where,
)
from raybench.analysis.sensitivity import judge_otherwise
from raybench.caveats import Caveat, caveat
from raybench.declare.repeats import Look
from raybench.statistics.claims import UNDECIDED, Claims, Rule
from raybench.statistics.estimate import Estimate, estimates, number, ratio_estimates
from raybench.statistics.inference import Floats, Integers, p_against, sign_flip_ps, t_interval
from raybench.statistics.looks import Procedure, Trials
from raybench.statistics.power import trials_needed

VERDICT_OF: Final[dict[str, Verdict]] = {str(verdict): verdict for verdict in VERDICTS}


def build_comparisons(
    pairs: Pairs, metric: Metric, rule: Rule, quality_margin: float, looks: tuple[Look, ...] | None = None
) -> tuple[Comparison, ...]:
    """One record per comparison, in reading order: by hardware, family, setting, arm.

    `quality_margin` is an accuracy; `looks` are those taken at the sweep, None for a single one at its end.
    """
    margin, alpha = rule.margin, rule.alpha
    unequal = undeclared_differences(pairs)
    same = np.ones(len(pairs.counts), dtype=bool)
    same[list(unequal)] = False
    mean, deviation = pairs.moments()
    legs, example = pairs.legs, pairs.example
    procedure = Procedure(rule, looks, legs.text["arm"].codes[example], legs.hardware.codes[example], same)
    found = procedure.judge(Trials(pairs.differences, pairs.comparison, pairs.repeat))
    verdicts = _verdicts(pairs, found, same)
    needed = trials_needed(pairs.counts, mean, found.deviation, found.degrees, margin=margin, level=found.level)
    sensitivity = judge_otherwise(pairs, metric, procedure)
    causes = _failure_causes(pairs, metric)
    differs = [declared(pairs.legs.text["differs"][leg]) for leg in pairs.example]
    count, level = pairs.counts, 1 - alpha
    memory = tradeoffs.memory(pairs, alpha)
    accuracy = _estimates(tradeoffs.accuracy(pairs, alpha), "accuracy", level)
    quality = tradeoffs.quality_verdicts(pairs, quality_margin, alpha)
    records = [
        Comparison(*record)
        for record in zip(
            _where(pairs),
            [pairs.legs.text["arm"][leg] for leg in pairs.example],
            count.tolist(),
            ratio_estimates(mean, *t_interval(count, mean, deviation, alpha), level=level, n=count),
            _judgements(pairs, found, verdicts, mean, deviation, needed),
            *_sides(pairs, metric, memory),
            ["sample" if by_sample else metric.per for by_sample in pairs.per_sample],
            _memories(memory, level),
            accuracy,
            quality,
            _estimates(tradeoffs.break_even_steps(pairs, alpha), "steps", level),
            *tradeoffs.flops_and_peaks(pairs),
            causes,
            _never_ran(pairs),
            differs,
            [tuple(others) for others in sensitivity],
            _caveats(pairs, verdicts, differs, accuracy, quality, sensitivity, unequal, margin, alpha, quality_margin),
            strict=True,
        )
    ]
    return tuple(sorted(records, key=_reading_order))


def _reading_order(c: Comparison) -> tuple[Any, ...]:
    return c.where.hardware, c.where.family, _natural(c.where.setting), c.where.setting_id, c.arm


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that puts b64 before b128."""
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(re.split(r"([0-9]+)", text))]


def _throughput(pairs: Pairs, metric: Metric, leg: Integers, log_cost: Floats) -> Floats:
    """Samples a second of one side, (k,); the cost is seconds a step or seconds a sample."""
    if metric.per != "step":
        return np.full(len(pairs.counts), np.nan)
    samples = pairs.legs.number["samples_per_step"][leg]
    log_samples = pairs.by_trial(np.log(np.where(samples > 0, samples, np.nan)))
    by_step = ~pairs.per_sample[pairs.comparison]
    return np.asarray(np.exp(pairs.moments(np.where(by_step, log_samples, 0.0) - log_cost)[0]))


def _tokens_per_sample(pairs: Pairs, legs: Integers) -> Floats:
    """Tokens per sample of these legs, (k,); nan where samples have no tokens."""
    tokens, samples = (pairs.legs.number[name][legs] for name in ("tokens_per_step", "samples_per_step"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(tokens > 0, tokens, np.nan) / np.where(samples > 0, samples, np.nan))


def _where(pairs: Pairs) -> list[Where]:
    legs, leg = pairs.legs, pairs.example
    texts = ("setting_id", "setting", "model", "family", "dataset", "precision")
    columns = (
        *([legs.text[name][row] for row in leg] for name in texts),
        *(_integers(legs.number[name][leg]) for name in ("global_batch", "workers")),
        [legs.hardware[row] for row in leg],
    )
    return [Where(*row) for row in zip(*columns, strict=True)]


def _judgements(
    pairs: Pairs, found: Claims, verdicts: Sequence[Verdict], mean: Floats, deviation: Floats, needed: Integers
) -> list[Judgement]:
    columns = (
        verdicts,
        _numbers(p_against(pairs.counts, mean, deviation)),
        _numbers(found.p_adjusted),
        _numbers(sign_flip_ps(pairs.differences, pairs.starts, pairs.counts)),
        ratio_estimates(mean, found.low, found.high, level=found.confidence, n=pairs.counts),
        [int(n) if v == UNDECIDED and n else None for n, v in zip(needed, verdicts, strict=True)],
        _numbers(deviation),
    )
    return [Judgement(*row) for row in zip(*columns, strict=True)]


def _sides(pairs: Pairs, metric: Metric, memory: tradeoffs.Memory) -> tuple[list[Side], list[Side]]:
    """The baseline's and the arm's side of every comparison."""
    steps, sides = pairs.legs.steps, []
    for of_arm, leg, log_cost, num_bytes, example in (
        (False, pairs.base_leg, pairs.log_base, memory.base_bytes, pairs.base_example),
        (True, pairs.arm_leg, pairs.log_arm, memory.arm_bytes, pairs.example),
    ):
        rates = _throughput(pairs, metric, leg, log_cost)
        columns = (
            _numbers(np.exp(pairs.moments(log_cost)[0])),
            _numbers(rates),
            _numbers(rates * _tokens_per_sample(pairs, example)),
            *(
                _numbers(np.exp(pairs.moments(pairs.by_trial(np.log(values[leg])))[0]))
                for values in (steps.median_seconds, steps.p90_seconds, steps.p99_seconds)
            ),
            _numbers(num_bytes),
            tradeoffs.memory_parts(pairs, example),
            *tradeoffs.predicted_memory(pairs, example),
            *tradeoffs.achieved(pairs, example, _numbers(rates), of_arm=of_arm),
        )
        sides.append([Side(*row) for row in zip(*columns, strict=True)])
    return sides[0], sides[1]


def _memories(memory: tradeoffs.Memory, level: float) -> list[Memory]:
    log = memory.log_ratio
    ratios = ratio_estimates(log.mean, log.low, log.high, level=level, n=log.count)
    return [Memory(*row) for row in zip(ratios, _estimates(memory.saved_bytes, "bytes", level), memory.of, strict=True)]


def _estimates(means: tradeoffs.Means, unit: str, level: float) -> list[Estimate]:
    return estimates(means.mean, means.low, means.high, unit=unit, level=level, n=means.count)


def _caveats(
    pairs: Pairs,
    verdicts: Sequence[Verdict],
    differs: Sequence[tuple[str, ...]],
    accuracy: Sequence[Estimate],
    quality: Sequence[str | None],
    sensitivity: Sequence[Sequence[Sensitivity]],
    unequal: dict[int, list[Caveat]],
    margin: float,
    alpha: float,
    quality_margin: float,
) -> list[tuple[Caveat, ...]]:
    found = checks.collect(pairs, margin, alpha)
    silent = without_facts(pairs)
    result = []
    for k, verdict in enumerate(verdicts):
        told = list(unequal.get(k, ()))
        if differs[k]:
            told.append(caveat("also_differ", words=differs[k]))
        if silent[k] and pairs.counts[k]:
            told.append(caveat("no_facts"))
        if quality[k] in (tradeoffs.WORSE, tradeoffs.UNCLEAR) and pairs.counts[k]:
            arm = pairs.legs.text["arm"][pairs.example[k]]
            told.append(_quality_caveat(arm, accuracy[k], quality[k] == tradeoffs.WORSE, quality_margin))
        told += found[k]
        told += [_otherwise(other) for other in sensitivity[k] if other.verdict != verdict and k not in unequal]
        result.append(tuple(told))
    return result


def _otherwise(other: Sensitivity) -> Caveat:
    if other.speedup is None:
        return caveat("no_trial_left", way=other.kind)
    return caveat("otherwise", way=other.kind, verdict=other.verdict)


def _quality_caveat(arm: str, accuracy: Estimate, worse: bool, quality_margin: float) -> Caveat:
    percent = 100 * quality_margin
    if accuracy.value is None:
        return caveat("worse_loss" if worse else "unclear_loss", arm=arm, percent=percent)
    return caveat(
        "less_accurate" if worse else "unclear_accuracy",
        arm=arm,
        difference=accuracy.value,
        interval=(accuracy.low, accuracy.high),
        percent=percent,
    )


def _verdicts(pairs: Pairs, found: Claims, same: Mask) -> list[Verdict]:
    none = pairs.counts == 0
    arm, base = pairs.arm, pairs.base
    memory = _failed_by_memory_alone(pairs)
    base_alone = none & (arm.ok > 0) & (base.ok == 0) & (base.failed > 0)
    arm_alone = none & (arm.ok == 0) & (arm.failed > 0) & (base.ok > 0)
    cases = [
        base_alone & memory,
        arm_alone & memory,
        base_alone | arm_alone,
        none & (arm.ok == 0) & (arm.failed > 0) & (base.ok == 0) & (base.failed > 0),
        none,
        ~same,
    ]
    names = ["unlocks", "blocked", "failed", "both failed", UNDECIDED, "not comparable"]
    return [VERDICT_OF[str(name)] for name in np.select(cases, names, found.verdict)]


def _never_ran(pairs: Pairs) -> list[tuple[str, ...]]:
    """Of each comparison, (k,): the arms without a measured leg."""
    arm = [pairs.legs.text["arm"][leg] for leg in pairs.example]
    sides = zip(arm, pairs.arm.ok.tolist(), pairs.base.ok.tolist(), strict=True)
    return [(*([name] * (of_arm == 0)), *([pairs.baseline] * (of_base == 0))) for name, of_arm, of_base in sides]


def _failed_by_memory_alone(pairs: Pairs) -> Mask:
    """Comparisons, (k,), whose failed legs, on either side, all ran out of memory."""
    legs, other = pairs.legs, np.zeros(int(pairs.leg_block.max()) + 1, dtype=bool)
    kind = legs.text["failure_kind"]
    strange = ~pairs.measured & (legs.ok | (kind.codes != code_of(kind, "out_of_memory")))
    other[pairs.leg_block[strange & (pairs.leg_comparison < 0)]] = True
    of_arm = np.zeros(len(pairs.counts), dtype=bool)
    of_arm[pairs.leg_comparison[strange & (pairs.leg_comparison >= 0)]] = True
    return ~(other[pairs.block] | of_arm)


def _failure_causes(pairs: Pairs, metric: Metric) -> list[tuple[FailureCause, ...]]:
    """The failures of each comparison: the arm's causes, then the baseline's."""
    legs = pairs.legs
    counts: dict[tuple[int, int, str], Counter[str]] = {}
    messages: dict[tuple[int, int, str, str], str] = {}
    for row in np.flatnonzero(~pairs.measured):
        key = (int(pairs.leg_comparison[row]), int(pairs.leg_block[row]), legs.text["arm"][row])
        kind = metric.absent if legs.ok[row] else legs.text["failure_kind"][row] or "error"
        counts.setdefault(key, Counter())[kind] += 1
        messages.setdefault((*key, kind), legs.text["failure_message"][row])
    if not counts:
        return [()] * len(pairs.counts)
    block, arm = pairs.block, legs.text["arm"]
    return [
        tuple(
            FailureCause(key[2], kind, num, messages[*key, kind])
            for key in ((k, int(block[k]), arm[pairs.example[k]]), (-1, int(block[k]), pairs.baseline))
            for kind, num in sorted(counts.get(key, {}).items())
        )
        for k in range(len(pairs.counts))
    ]


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [number(value) for value in np.asarray(values).tolist()]


def _integers(values: Floats) -> list[int | None]:
    return [int(value) if np.isfinite(value) else None for value in values.tolist()]
