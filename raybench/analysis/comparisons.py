"""From pairs to records: one `Comparison` an arm in a setting, with verdict, trade-offs and caveats.

What may be said is decided in this order: no paired trial (then `unlocks`, `blocked` or `both failed`, or
`undecided` where nothing ran side by side); arms that were not the same experiment (`not comparable`, with
their numbers but without a claim); else the verdict of `raybench.analysis.inference.judge`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from raybench.analysis import caveats as words
from raybench.analysis import tradeoffs
from raybench.analysis.comparability import declared, undeclared_differences, without_facts
from raybench.analysis.inference import UNDECIDED, Floats, Integers, Judgement, judge, sign_flip_ps
from raybench.analysis.metrics import Metric
from raybench.analysis.pairs import Mask, Pairs
from raybench.analysis.planning import trials_needed
from raybench.analysis.results import Comparison, FailureCause, number
from raybench.analysis.sensitivity import judge_otherwise
from raybench.analysis.work import work


def build_comparisons(
    pairs: Pairs, metric: Metric, margin: float, alpha: float, quality_margin: float
) -> tuple[Comparison, ...]:
    """One record for each comparison, in reading order: by hardware, family, setting, arm.

    `margin` is on the log scale, `quality_margin` an accuracy.
    """
    unequal = undeclared_differences(pairs)
    same = np.ones(len(pairs.counts), dtype=bool)
    same[list(unequal)] = False
    mean, deviation = pairs.moments()
    found = judge(pairs.counts, mean, deviation, margin=margin, alpha=alpha, claims=same)
    verdicts = _verdicts(pairs, found, same)
    needed = trials_needed(pairs.counts, mean, deviation, margin=margin, alpha=alpha, level=found.level)
    sensitivity = judge_otherwise(pairs, metric, margin, alpha, same)
    causes = _failure_causes(pairs, metric)
    differs = [declared(pairs.legs.text["differs"][leg]) for leg in pairs.example]
    columns: dict[str, Sequence[Any]] = {
        **_names(pairs),
        "n_trials": pairs.counts.tolist(),
        "speedup": _ratios(mean),
        "ci_low": _ratios(found.low),
        "ci_high": _ratios(found.high),
        "p_value": _numbers(found.p_value),
        "p_adjusted": _numbers(found.p_adjusted),
        "sign_flip_p": _numbers(sign_flip_ps(pairs.differences, pairs.starts, pairs.counts)),
        "verdict": verdicts,
        "verdict_low": _ratios(found.verdict_low),
        "verdict_high": _ratios(found.verdict_high),
        "verdict_confidence": _numbers(np.where(pairs.counts >= 2, found.verdict_confidence, np.nan)),
        "trials_needed": [int(n) if v == UNDECIDED and n else None for n, v in zip(needed, verdicts, strict=True)],
        "deviation": _numbers(deviation),
        "baseline_seconds": _numbers(np.exp(pairs.moments(pairs.log_base)[0])),
        "arm_seconds": _numbers(np.exp(pairs.moments(pairs.log_arm)[0])),
        "baseline_samples_per_second": _numbers(_throughput(pairs, metric, pairs.base_leg, pairs.log_base)),
        "arm_samples_per_second": _numbers(_throughput(pairs, metric, pairs.arm_leg, pairs.log_arm)),
        "seconds_per": ["sample" if by_sample else metric.per for by_sample in pairs.per_sample],
        "failures": [sum(cause.num_legs for cause in several) for several in causes],
        "failure_causes": causes,
        **_trade_offs(pairs, alpha, quality_margin),
        **_percentiles(pairs),
        "differs": differs,
        "sensitivity": [tuple(others) for others in sensitivity],
    }
    columns |= work(pairs, columns["baseline_samples_per_second"], columns["arm_samples_per_second"])
    columns["caveats"] = _caveats(pairs, columns, unequal, margin, alpha, quality_margin)
    names = list(columns)
    records = [Comparison(**dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    return tuple(sorted(records, key=lambda c: (c.hardware, c.family, _natural(c.setting), c.setting_id, c.arm)))


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that puts b64 before b128."""
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(re.split(r"([0-9]+)", text))]


def _throughput(pairs: Pairs, metric: Metric, leg: Integers, log_cost: Floats) -> Floats:
    """Samples a second of one side, (k,): the cost is seconds a step, or seconds a sample already."""
    if metric.per != "step":
        return np.full(len(pairs.counts), np.nan)
    samples = pairs.legs.number["samples_per_step"][leg]
    log_samples = pairs.by_trial(np.log(np.where(samples > 0, samples, np.nan)))
    by_step = ~pairs.per_sample[pairs.comparison]
    return np.asarray(np.exp(pairs.moments(np.where(by_step, log_samples, 0.0) - log_cost)[0]))


def _percentiles(pairs: Pairs) -> dict[str, Sequence[Any]]:
    """p50, p90 and p99 of both sides' measured steps, by comparison: the geometric mean over its trials."""
    steps = pairs.legs.steps
    return {
        f"{side}_step_{name}_seconds": _numbers(np.exp(pairs.moments(pairs.by_trial(np.log(values[leg])))[0]))
        for side, leg in (("baseline", pairs.base_leg), ("arm", pairs.arm_leg))
        for name, values in (("p50", steps.median_seconds), ("p90", steps.p90_seconds), ("p99", steps.p99_seconds))
    }


def _names(pairs: Pairs) -> dict[str, Sequence[Any]]:
    legs, leg = pairs.legs, pairs.example
    texts = ("setting_id", "setting", "model", "family", "dataset", "precision", "arm")
    return {
        **{name: [legs.text[name][row] for row in leg] for name in texts},
        "global_batch": _integers(legs.number["global_batch"][leg]),
        "workers": _integers(legs.number["workers"][leg]),
        "hardware": [legs.hardware[row] for row in leg],
    }


def _trade_offs(pairs: Pairs, alpha: float, quality_margin: float) -> dict[str, Sequence[Any]]:
    memory = tradeoffs.memory(pairs, alpha)
    accuracy = tradeoffs.accuracy(pairs, alpha)
    steps = tradeoffs.break_even_steps(pairs, alpha)
    return {
        "memory_ratio": _ratios(memory.log_ratio.mean),
        "memory_ratio_low": _ratios(memory.log_ratio.low),
        "memory_ratio_high": _ratios(memory.log_ratio.high),
        "memory_of": memory.of,
        "baseline_memory_bytes": _numbers(memory.base_bytes),
        "arm_memory_bytes": _numbers(memory.arm_bytes),
        "memory_saved_bytes": _numbers(memory.saved_bytes.mean),
        "memory_saved_low": _numbers(memory.saved_bytes.low),
        "memory_saved_high": _numbers(memory.saved_bytes.high),
        "baseline_memory_parts": tradeoffs.memory_parts(pairs, pairs.base_example),
        "arm_memory_parts": tradeoffs.memory_parts(pairs, pairs.example),
        "accuracy_difference": _numbers(accuracy.mean),
        "accuracy_low": _numbers(accuracy.low),
        "accuracy_high": _numbers(accuracy.high),
        "quality": tradeoffs.quality_verdicts(pairs, quality_margin, alpha),
        "break_even_steps": _numbers(steps.mean),
        "break_even_low": _numbers(steps.low),
        "break_even_high": _numbers(steps.high),
    }


def _caveats(
    pairs: Pairs,
    columns: dict[str, Sequence[Any]],
    unequal: dict[int, list[str]],
    margin: float,
    alpha: float,
    quality_margin: float,
) -> list[tuple[str, ...]]:
    found = words.collect(pairs, margin, alpha)
    silent = without_facts(pairs)
    result = []
    for k, verdict in enumerate(columns["verdict"]):
        sentences = list(unequal.get(k, ()))
        if columns["differs"][k]:
            sentences.append(f"arms also differ in {', '.join(columns['differs'][k])}, as the space declares")
        if silent[k] and pairs.counts[k]:
            sentences.append("no facts are stated, so nothing shows that the arms ran the same experiment")
        if columns["quality"][k] in (tradeoffs.WORSE, tradeoffs.UNCLEAR) and pairs.counts[k]:
            sentences.append(_quality_caveat(columns, k, quality_margin))
        sentences += found[k]
        sentences += [
            other.sentence() for other in columns["sensitivity"][k] if other.verdict != verdict and k not in unequal
        ]
        result.append(tuple(sentences))
    return result


def _quality_caveat(columns: dict[str, Sequence[Any]], k: int, quality_margin: float) -> str:
    difference, low, high = (columns[f"accuracy_{name}"][k] for name in ("difference", "low", "high"))
    interval = "" if low is None else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
    claim = "is less accurate" if columns["quality"][k] == tradeoffs.WORSE else "is not shown to be as accurate"
    points = f"{100 * difference:+.2f} points{interval}, margin {100 * quality_margin:g}"
    return f"quality: {columns['arm'][k]} {claim}: {points}"


def _verdicts(pairs: Pairs, found: Judgement, same: Mask) -> list[str]:
    none = pairs.counts == 0
    arm, base = pairs.arm, pairs.base
    cases = [
        none & (arm.ok > 0) & (base.ok == 0) & (base.failed > 0),
        none & (arm.ok == 0) & (arm.failed > 0) & (base.ok > 0),
        none & (arm.ok == 0) & (arm.failed > 0) & (base.ok == 0) & (base.failed > 0),
        none,
        ~same,
    ]
    names = ["unlocks", "blocked", "both failed", UNDECIDED, "not comparable"]
    return [str(name) for name in np.select(cases, names, found.verdict)]


def _failure_causes(pairs: Pairs, metric: Metric) -> list[tuple[FailureCause, ...]]:
    """What failed, by comparison: the arm's causes, then the baseline's."""
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


def _ratios(logs: Floats) -> list[float | None]:
    """exp of each; None where it is too large for a number, as the end of an interval from two trials can be."""
    with np.errstate(over="ignore"):
        return _numbers(np.exp(logs))


def _integers(values: Floats) -> list[int | None]:
    return [int(value) if np.isfinite(value) else None for value in values.tolist()]
