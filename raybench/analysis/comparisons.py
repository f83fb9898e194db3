"""The analysis itself: ledgers -> legs -> pairs -> judgements -> records.

What may be said of each comparison, and in which order it is decided: no paired trial (then one of
`unlocks`, `blocked`, `both failed`, or `undecided` where nothing ran side by side); arms that were not the
same experiment (`not comparable`, with its numbers but without a claim); else the verdict of
`raybench.analysis.inference.judge`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raybench.analysis import caveats as words
from raybench.analysis.arms import GROUPINGS, summarize_arms, summarize_groups
from raybench.analysis.comparability import declared, undeclared_differences, without_facts
from raybench.analysis.hardware import versions_of
from raybench.analysis.inference import UNDECIDED, Floats, Judgement, judge, sign_flip_ps
from raybench.analysis.legs import Coded, Legs, parse_object, read_legs
from raybench.analysis.metrics import Metric, find_metric
from raybench.analysis.pairs import Pairs, mean_by, pair_trials
from raybench.analysis.planning import trials_needed
from raybench.analysis.question import find_baseline, find_question
from raybench.analysis.results import Analysis, Comparison, FailureCause, Sensitivity, number
from raybench.cli import suggest
from raybench.errors import UserError


def analyse(
    paths: Sequence[Path],
    *,
    margin: float | None = None,
    alpha: float | None = None,
    baseline: str | None = None,
    metric: str = "step_seconds",
    by: str | None = None,
    pool_hardware: bool = False,
) -> Analysis:
    """Everything the ledgers at `paths` (folders or files) support, as one record.

    `margin` (a ratio, 0.03 is 3 %) and `alpha` default to the `question` of the `space.yaml` beside the
    ledgers, else to 0.03 and 0.05; `baseline` to the arm that the ledgers mark. `metric` is one of
    `raybench.analysis.metrics.METRICS`; `by` groups the arms' summaries by one of `GROUPINGS`. With
    `pool_hardware` legs of different machines are taken as of one. Raises UserError for bad input.
    """
    margin, alpha = find_question(paths, margin, alpha)
    if by is not None and by not in GROUPINGS:
        raise UserError(f"by={by}: {suggest(by, GROUPINGS)}")
    chosen = find_metric(metric)
    legs = read_legs(paths)
    baseline = find_baseline(legs, baseline, paths)
    pairs = pair_trials(legs, chosen.cost(legs), baseline, pool_hardware=pool_hardware)
    comparisons = _in_reading_order(build_comparisons(pairs, chosen, float(np.log1p(margin)), alpha))
    if pool_hardware:
        comparisons = tuple(replace(c, hardware="") for c in comparisons)
    return Analysis(
        margin=margin,
        alpha=alpha,
        baseline=baseline,
        metric=metric,
        comparisons=comparisons,
        arms=summarize_arms(comparisons, alpha),
        groups=summarize_groups(comparisons, by, alpha) if by else (),
        caveats=_overall_caveats(legs, comparisons),
        ledgers=tuple(str(path) for path in paths),
        sweeps=_present(legs.text["sweep"]),
        hardware=tuple(name for name in _present(legs.hardware) if name),
        versions=_versions(legs),
        num_legs=len(legs),
        num_failed_legs=int(np.count_nonzero(~legs.ok)),
        pairs=pairs,
    )


def build_comparisons(pairs: Pairs, metric: Metric, margin: float, alpha: float) -> list[Comparison]:
    """One record for each comparison of `pairs`; `margin` is on the log scale."""
    unequal = undeclared_differences(pairs)
    same = np.ones(len(pairs.counts), dtype=bool)
    same[list(unequal)] = False
    mean, deviation = pairs.moments()
    found = judge(pairs.counts, mean, deviation, margin=margin, alpha=alpha, claims=same)
    verdicts = _verdicts(pairs, found, same)
    needed = trials_needed(pairs.counts, mean, deviation, margin=margin, alpha=alpha, level=found.level)
    flips = sign_flip_ps(pairs.differences, pairs.starts, pairs.counts)
    sensitivity = _sensitivity(pairs, metric, margin, alpha, same)
    caveats = words.collect(pairs, margin, alpha)
    silent = without_facts(pairs)
    causes = _failure_causes(pairs)
    memory_of, memory, base_memory, arm_memory = _memory(pairs)
    accuracy = _difference(pairs, pairs.legs.number["accuracy"])
    base_seconds, arm_seconds = (np.exp(pairs.moments(log)[0]) for log in (pairs.log_base, pairs.log_arm))
    speedup, low, high, verdict_low, verdict_high = (
        np.exp(x) for x in (mean, found.low, found.high, found.verdict_low, found.verdict_high)
    )

    comparisons = []
    legs = pairs.legs
    for k, leg in enumerate(pairs.example):
        differs = declared(legs.text["differs"][leg])
        more = list(sensitivity[k])
        comparisons.append(
            Comparison(
                **{
                    name: legs.text[name][leg]
                    for name in ("setting_id", "setting", "model", "family", "dataset", "precision", "arm")
                },
                global_batch=_integer(legs.number["global_batch"][leg]),
                workers=_integer(legs.number["workers"][leg]),
                hardware=legs.hardware[leg],
                n_trials=int(pairs.counts[k]),
                speedup=number(speedup[k]),
                ci_low=number(low[k]),
                ci_high=number(high[k]),
                p_value=number(found.p_value[k]),
                p_adjusted=number(found.p_adjusted[k]),
                sign_flip_p=number(flips[k]),
                verdict=verdicts[k],
                verdict_low=number(verdict_low[k]),
                verdict_high=number(verdict_high[k]),
                verdict_confidence=number(found.verdict_confidence[k]) if pairs.counts[k] >= 2 else None,
                trials_needed=int(needed[k]) if verdicts[k] == UNDECIDED and needed[k] else None,
                deviation=number(deviation[k]),
                baseline_seconds=number(base_seconds[k]),
                arm_seconds=number(arm_seconds[k]),
                seconds_per="sample" if pairs.per_sample[k] else metric.per,
                failures=sum(cause.num_legs for cause in causes[k]),
                failure_causes=causes[k],
                memory_ratio=number(memory[k]),
                memory_of=memory_of[k],
                baseline_memory_bytes=number(base_memory[k]),
                arm_memory_bytes=number(arm_memory[k]),
                accuracy_difference=number(accuracy[k]),
                differs=differs,
                sensitivity=tuple(more),
                caveats=(
                    *unequal.get(k, ()),
                    *([f"arms also differ in {', '.join(differs)}, as the space declares"] if differs else ()),
                    *(
                        ["no facts are stated, so nothing shows that the arms ran the same experiment"]
                        if silent[k] and pairs.counts[k]
                        else ()
                    ),
                    *caveats[k],
                    *(
                        f"with the {other.kind} the verdict would be {other.verdict!r}"
                        for other in more
                        if other.verdict != verdicts[k] and same[k]
                    ),
                ),
            )
        )
    return comparisons


def _verdicts(pairs: Pairs, found: Judgement, same: np.ndarray) -> list[str]:
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


def _sensitivity(
    pairs: Pairs, metric: Metric, margin: float, alpha: float, same: np.ndarray
) -> list[list[Sensitivity]]:
    """The comparisons judged with the median step, and without legs that were not steady."""
    results: list[list[Sensitivity]] = [[] for _ in pairs.counts]
    if metric.name != "step_seconds":
        return results
    owner = pairs.comparison[pairs.round_trial]
    scale = np.where(pairs.per_sample[owner], _log_samples(pairs), 0.0)
    suspect = words.suspect_legs(pairs)
    steady = ~(suspect[pairs.arm_leg] | suspect[pairs.base_leg])
    everything = np.ones(len(steady), dtype=bool)
    for kind, seconds, keep in (
        ("median step", pairs.legs.steps.median_seconds, everything),
        ("steady legs only", pairs.legs.steps.mean_seconds, steady),
    ):
        rounds = np.log(seconds[pairs.base_leg] / seconds[pairs.arm_leg]) + scale
        trials = mean_by(pairs.round_trial[keep], rounds[keep], len(pairs.differences))
        there = np.isfinite(trials)
        owners = pairs.comparison[there]
        counts = np.bincount(owners, minlength=len(pairs.counts))
        mean, deviation = replace(pairs, comparison=owners, differences=trials[there]).moments()
        found = judge(counts, mean, deviation, margin=margin, alpha=alpha, claims=same)
        changed = (
            np.ones(len(counts), dtype=bool)
            if keep is everything
            else (np.bincount(owner[~keep], minlength=len(counts)) > 0)
        )
        for k in np.flatnonzero((pairs.counts > 0) & changed):
            results[k].append(Sensitivity(kind, number(np.exp(mean[k])), str(found.verdict[k])))
    return results


def _log_samples(pairs: Pairs) -> Floats:
    samples = pairs.legs.number["samples_per_step"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(samples[pairs.arm_leg] / samples[pairs.base_leg]))


def _memory(pairs: Pairs) -> tuple[list[str | None], Floats, Floats, Floats]:
    """(of what, ratio, baseline's bytes, arm's bytes) by comparison: the device's peak where both have one."""
    kinds: list[str | None] = [None] * len(pairs.counts)
    ratio, base_bytes, arm_bytes = (np.full(len(pairs.counts), np.nan) for _ in range(3))
    for kind in ("host", "device"):
        peak = pairs.legs.number[f"peak_{kind}_bytes"]
        log = np.log(np.where(peak > 0, peak, np.nan))
        arm, base = (pairs.moments(pairs.by_trial(log[leg]))[0] for leg in (pairs.arm_leg, pairs.base_leg))
        there = np.isfinite(arm - base)
        ratio[there], base_bytes[there], arm_bytes[there] = (np.exp(x[there]) for x in (arm - base, base, arm))
        kinds = [kind if there[k] else old for k, old in enumerate(kinds)]
    return kinds, ratio, base_bytes, arm_bytes


def _difference(pairs: Pairs, values: Floats) -> Floats:
    """Mean over trials of arm minus baseline, (k,); nan where a leg lacks the value."""
    return pairs.moments(pairs.by_trial(values[pairs.arm_leg] - values[pairs.base_leg]))[0]


def _failure_causes(pairs: Pairs) -> list[tuple[FailureCause, ...]]:
    """What failed, by comparison: the arm's causes, then the baseline's."""
    legs = pairs.legs
    counts: dict[tuple[int, int, str], Counter[str]] = {}
    messages: dict[tuple[int, int, str, str], str] = {}
    for row in np.flatnonzero(~legs.ok):
        key = (int(pairs.leg_comparison[row]), int(pairs.leg_block[row]), legs.text["arm"][row])
        kind = legs.text["failure_kind"][row] or "error"
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


def _in_reading_order(comparisons: list[Comparison]) -> tuple[Comparison, ...]:
    return tuple(sorted(comparisons, key=lambda c: (c.hardware, c.family, c.setting, c.setting_id, c.arm)))


def _overall_caveats(legs: Legs, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    found = []
    if len({c.hardware for c in comparisons}) > 1:
        found.append("legs of different hardware are kept apart; --pool-hardware takes them together")
    if not comparisons:
        found.append("the ledger holds legs of the baseline alone, so there is nothing to compare")
    elif not any(c.n_trials for c in comparisons):
        found.append("nothing could be compared: no trial holds a measured leg of both an arm and the baseline")
    return tuple(found)


def _present(column: Coded) -> tuple[str, ...]:
    return tuple(sorted({column.names[code] for code in np.unique(column.codes) if code >= 0}))


def _versions(legs: Legs) -> tuple[str, ...]:
    texts = {
        ", ".join(f"{name} {version}" for name, version in sorted(versions_of(parse_object(text)).items()))
        for text in _present(legs.text["environment"])
    }
    return tuple(sorted(text for text in texts if text))


def _integer(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None
