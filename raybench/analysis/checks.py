"""The caveats of each comparison: what a reader must know beside its numbers (texts: `raybench.caveats`).

Each function looks at all comparisons at once and yields (comparison, caveat) where there is something to say. The
thresholds are judgements; all are named here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np

from raybench.analysis.arrays import hardware_of, parse_object, versions_of
from raybench.analysis.comparability import unequal_steps
from raybench.analysis.pairs import Pairs, distinct_by, group_moments, mean_by
from raybench.analysis.scripts import script_caveats
from raybench.analysis.sensitivity import contaminated_legs, cut_rounds, suspect_legs
from raybench.caveats import Caveat, caveat
from raybench.statistics.inference import Floats, p_against
from raybench.statistics.multiplicity import adjust

Found = Iterator[tuple[int, Caveat]]

FEW_TRIALS: Final = 3
INPUT_BOUND_SHARE: Final = 0.2  # share of the step spent waiting for data


def collect(pairs: Pairs, margin: float, alpha: float) -> list[list[Caveat]]:
    """The caveats of each of the k comparisons, in a fixed order. `margin` is on the log scale."""
    caveats: list[list[Caveat]] = [[] for _ in pairs.counts]
    finders: tuple[Callable[[Pairs], Found], ...] = (
        _few_trials,
        _failures,
        _absent_trials,
        _lonely_rounds,
        _merged_trials,
        _unlike_trials,
        _batches,
        _batch_arithmetic,
        _cut_trials,
        _fleet,
        _own_processes,
        _versions_not_asked_for,
        _sweeps,
        _not_steady,
        _contaminated,
        _shared_nodes,
        _skipped_steps,
        _input_bound,
        _scripts,
        _steps_of_scripts,
    )
    for finder in finders:
        for comparison, one in finder(pairs):
            caveats[comparison].append(one)
    for comparison, one in (*_drift(pairs, margin), *_order_effect(pairs, margin, alpha)):
        caveats[comparison].append(one)
    return caveats


def _few_trials(pairs: Pairs) -> Found:
    spread = pairs.moments()[1]
    for k in np.flatnonzero(pairs.counts == 1):
        yield int(k), caveat("one_trial")
    for k in np.flatnonzero((pairs.counts > 1) & (pairs.counts <= FEW_TRIALS)):
        yield int(k), caveat("few_trials", trials=int(pairs.counts[k]))
    for k in np.flatnonzero((pairs.counts > 1) & (spread <= 1e-13)):
        yield int(k), caveat("equal_trials", trials=int(pairs.counts[k]))


def _failures(pairs: Pairs) -> Found:
    arm = pairs.legs.text["arm"]
    for k in np.flatnonzero((pairs.arm.failed > 0) | (pairs.base.failed > 0)):
        trials = int(pairs.counts[k])
        for name, side in ((arm[pairs.example[k]], pairs.arm), (pairs.baseline, pairs.base)):
            failed, legs = int(side.failed[k]), int(side.failed[k] + side.ok[k])
            if failed and trials:
                yield int(k), caveat("legs_failed_rest", arm=name, failed=failed, legs=legs, trials=trials)
            elif failed:
                yield int(k), caveat("legs_failed", arm=name, failed=failed, legs=legs)


def _absent_trials(pairs: Pairs) -> Found:
    arm = pairs.legs.text["arm"]
    for k in np.flatnonzero(pairs.base.trials == 0):
        yield int(k), caveat("no_baseline", baseline=pairs.baseline)
    everything = np.bincount(_trials_of_block(pairs), minlength=int(pairs.leg_block.max()) + 1)[pairs.block]
    for side, is_base in ((pairs.arm, False), (pairs.base, True)):
        for k in np.flatnonzero((side.trials < everything) & (pairs.base.trials > 0)):
            name = pairs.baseline if is_base else arm[pairs.example[k]]
            yield int(k), caveat("absent_trials", arm=name, trials=int(side.trials[k]), all=int(everything[k]))


def _trials_of_block(pairs: Pairs) -> np.ndarray:
    first = np.unique(pairs.leg_trial, return_index=True)[1]
    return np.asarray(pairs.leg_block[first])


def _lonely_rounds(pairs: Pairs) -> Found:
    lonely = pairs.arm.lonely + pairs.base.lonely
    for k in np.flatnonzero((lonely > 0) & (pairs.arm.ok > 0) & (pairs.base.ok > 0)):
        yield int(k), caveat("lonely_rounds", rounds=int(lonely[k]))


def _merged_trials(pairs: Pairs) -> Found:
    """Trials that were merged into one sample, and why."""
    owner, samples = pairs.comparison[pairs.round_trial], pairs.samples
    size = len(pairs.counts)
    for mask, kind in ((samples.shared_processes, "one_process_group"), (samples.copied, "copies")):
        concerned = mask[pairs.arm_leg] | mask[pairs.base_leg]
        trials = distinct_by(owner, pairs.leg_trial[pairs.arm_leg], concerned, size)
        counted = distinct_by(owner, pairs.round_trial, concerned, size)
        for k in np.flatnonzero(trials > counted):
            yield int(k), caveat(kind, trials=int(trials[k]), counted=int(counted[k]))


def _unlike_trials(pairs: Pairs) -> Found:
    """Trials that measured different numbers of steps."""
    number, steps = pairs.legs.number, pairs.legs.steps
    protocol = pairs.legs.text["protocol"]
    trains = np.array([parse_object(text).get("kind") == "train" for text in protocol.names] + [False])[protocol.codes]
    for name, values in (
        ("warmup_steps", number["warmup_steps"]),
        ("steps", np.where(trains, np.nan, steps.num_steps)),
    ):
        distinct, codes = np.unique(values, return_inverse=True)
        blank = len(distinct) - 1 if len(distinct) and np.isnan(distinct[-1]) else -1
        for k, several in _several(pairs, codes, blank):
            yield k, caveat("trials_differ", what=name, values=[round(distinct[code]) for code in several])


def _own_processes(pairs: Pairs) -> Found:
    """Sides that ask for different packages, so that each has its own processes."""
    packages, owner = pairs.legs.text["packages"].codes, pairs.comparison[pairs.round_trial]
    group = pairs.legs.text["process_group"].codes
    arm, base = pairs.arm_leg, pairs.base_leg
    apart = (packages[arm] != packages[base]) & (group[arm] != group[base])
    for k in np.unique(owner[apart]):
        yield int(k), caveat("own_processes", arm=pairs.legs.text["arm"][pairs.example[k]], baseline=pairs.baseline)


def _versions_not_asked_for(pairs: Pairs) -> Found:
    """An arm's own environment that differs from the baseline's in packages that the arm did not ask for."""
    environment, packages = pairs.legs.text["environment"], pairs.legs.text["packages"]
    owner, arm, base = pairs.comparison[pairs.round_trial], pairs.arm_leg, pairs.base_leg
    asking = np.flatnonzero(packages.codes[arm] != packages.codes[base])
    cases = np.stack([owner[asking], environment.codes[arm[asking]], environment.codes[base[asking]]])
    told: dict[tuple[int, Caveat], None] = {}
    for row in asking[np.unique(cases, axis=1, return_index=True)[1]]:
        own, others = (versions_of(parse_object(environment[leg])) for leg in (arm[row], base[row]))
        asked = parse_object(packages[arm[row]]).keys() | parse_object(packages[base[row]]).keys()
        for name in sorted((own.keys() & others.keys()) - asked - {"raybench", "git_commit"}):
            if own[name] != others[name]:
                arm_name = pairs.legs.text["arm"][arm[row]]
                values = {"own": own[name], "base": others[name], "baseline": pairs.baseline}
                told.setdefault((int(owner[row]), caveat("brought_along", arm=arm_name, what=name, **values)))
    yield from told


def _batches(pairs: Pairs) -> Found:
    samples = pairs.legs.number["samples_per_step"]
    owner = pairs.comparison[pairs.round_trial]
    for k in np.flatnonzero(pairs.per_sample & (pairs.counts > 0)):
        at = int(np.searchsorted(owner, k))  # rounds are sorted by comparison
        arm, base = samples[pairs.arm_leg[at]], samples[pairs.base_leg[at]]
        name = pairs.legs.text["arm"][pairs.example[k]]
        yield int(k), caveat("per_sample", baseline=pairs.baseline, base=float(base), arm=name, own=float(arm))


def _batch_arithmetic(pairs: Pairs) -> Found:
    """Rows that contradict themselves: samples a step must be the global batch, micro x accumulation x workers."""
    number = pairs.legs.number
    batch, samples = number["global_batch"], number["samples_per_step"]
    product = number["micro_batch"] * number["accumulation"] * number["workers"]
    wrong = (samples != batch) & np.isfinite(samples + batch) | (product != batch) & np.isfinite(product + batch)
    owner = pairs.comparison[pairs.round_trial]
    for leg in (pairs.base_leg, pairs.arm_leg):
        for k, first in zip(*np.unique(owner[wrong[leg]], return_index=True), strict=True):
            row = leg[wrong[leg]][first]
            micro, accumulation, workers = (
                float(number[name][row]) for name in ("micro_batch", "accumulation", "workers")
            )
            yield (
                int(k),
                caveat(
                    "batches_contradict", arm=pairs.legs.text["arm"][row], samples=float(samples[row]),
                    batch=float(batch[row]), micro=micro, accumulation=accumulation, workers=workers,
                ),
            )  # fmt: skip


def _cut_trials(pairs: Pairs) -> Found:
    owner = pairs.comparison[pairs.round_trial]
    cut = np.bincount(owner[cut_rounds(pairs)], minlength=len(pairs.counts))
    rounds = np.bincount(owner, minlength=len(pairs.counts))
    for k in np.flatnonzero(cut):
        yield int(k), caveat("cut_rounds", cut=int(cut[k]), rounds=int(rounds[k]))


def _fleet(pairs: Pairs) -> Found:
    environment = pairs.legs.text["environment"]
    parsed = [parse_object(text) for text in (*environment.names, "")]
    for what, described in (
        ("hardware", [hardware_of(one) for one in parsed]),
        ("versions", [", ".join(f"{n} {v}" for n, v in sorted(versions_of(one).items())) for one in parsed]),
    ):
        names = sorted(set(described))
        codes = np.array([names.index(text) for text in described])[environment.codes]
        blank = names.index("") if "" in names else -1
        for k, values in _several(pairs, codes, blank):
            yield k, caveat("mixed", what=what, change=_changes([names[value] for value in values]))
        yield from _confounded(pairs, codes, blank, what, names)
    yield from _unlike_nodes(pairs, [_differing_nodes(one) for one in parsed])


def _unlike_nodes(pairs: Pairs, described: list[str]) -> Found:
    codes = pairs.legs.text["environment"].codes[pairs.arm_leg]
    cases = np.unique(np.stack([pairs.comparison[pairs.round_trial], codes]), axis=1)
    said = {(int(k), described[code]) for k, code in cases.T if described[code]}
    for k, text in sorted(said):
        yield k, caveat("unlike_nodes", nodes=text)


def _differing_nodes(environment: Mapping[str, Any]) -> str:
    """Which nodes differ from the first one, and how."""
    nodes = environment.get("differences") or {}
    return "; ".join(f"{node} in {', '.join(sorted(entries))}" for node, entries in sorted(nodes.items()))


def _confounded(pairs: Pairs, codes: np.ndarray, blank: int, what: str, names: list[str]) -> Found:
    """Rounds whose two legs ran on different hardware or versions, which may explain their difference."""
    arm, base = codes[pairs.arm_leg], codes[pairs.base_leg]
    apart = np.flatnonzero((arm != base) & (arm != blank) & (base != blank))
    owner = pairs.comparison[pairs.round_trial[apart]]
    for k, first in zip(*np.unique(owner, return_index=True), strict=True):
        change = _changes([names[base[apart[first]]], names[arm[apart[first]]]])
        yield int(k), caveat("confounded", what=what, change=change)


def _several(pairs: Pairs, codes: np.ndarray, blank: int) -> Iterator[tuple[int, list[int]]]:
    """Comparisons whose paired legs have more than one code, with the codes."""
    owner = np.concatenate([pairs.comparison[pairs.round_trial]] * 2)
    values = codes[np.concatenate([pairs.arm_leg, pairs.base_leg])]
    lowest, highest = np.full(len(pairs.counts), np.iinfo(np.int64).max), np.full(len(pairs.counts), -1)
    told = values != blank
    np.minimum.at(lowest, owner[told], values[told])
    np.maximum.at(highest, owner[told], values[told])
    mixed = told & (highest > lowest)[owner]
    cases = np.unique(np.stack([owner[mixed], values[mixed]]), axis=1)
    for k, codes_of in groupby(cases.T.tolist(), key=itemgetter(0)):
        yield k, [code for _, code in codes_of]


def _changes(texts: list[str]) -> str:
    """The parts of some comma-separated descriptions that are not common to all."""
    parts = [text.split(", ") for text in texts]
    common = set(parts[0]).intersection(*parts[1:])
    return " | ".join(", ".join(part for part in one if part not in common) or "the same" for one in parts)


def _sweeps(pairs: Pairs) -> Found:
    sweep, space = pairs.legs.text["sweep"], pairs.legs.text["space"]
    codes = sweep.codes * len(space.names) + space.codes
    for k, values in _several(pairs, codes, -1):
        names = [sweep.names[value // len(space.names)] for value in values]
        yield k, caveat("several_sweeps", number=len(names), sweeps=names)


def _not_steady(pairs: Pairs) -> Found:
    suspect = suspect_legs(pairs)
    owner = pairs.comparison[pairs.round_trial]
    rounds = np.bincount(owner, minlength=len(pairs.counts))
    flagged = np.bincount(owner, suspect[pairs.arm_leg].astype(float) + suspect[pairs.base_leg], len(pairs.counts))
    for k in np.flatnonzero(flagged):
        yield int(k), caveat("not_steady", flagged=round(flagged[k]), legs=int(2 * rounds[k]))


def _contaminated(pairs: Pairs) -> Found:
    """Legs that ran while something else kept the machine busy, and what it was."""
    owner, column = pairs.comparison[pairs.round_trial], pairs.legs.text["contaminated"]
    flagged = contaminated_legs(pairs)
    if not flagged.any():
        return
    rounds = np.bincount(owner, minlength=len(pairs.counts))
    legs = np.concatenate([pairs.arm_leg, pairs.base_leg])
    owners = np.concatenate([owner, owner])[flagged[legs]]
    codes = column.codes[legs[flagged[legs]]]
    num_legs = np.bincount(owners, minlength=len(pairs.counts))
    reasons: dict[int, Counter[str]] = {}
    for (k, code), count in zip(*np.unique(np.stack([owners, codes], axis=1), axis=0, return_counts=True), strict=True):
        for reason in column.names[code].split("\n"):
            reasons.setdefault(int(k), Counter())[reason] += int(count)
    for k, counts in reasons.items():
        why = [f"{reason} in {count}" for reason, count in sorted(counts.items())]
        yield k, caveat("contaminated", flagged=int(num_legs[k]), legs=int(2 * rounds[k]), why=why)


def _shared_nodes(pairs: Pairs) -> Found:
    """Legs that may have shared their machine with other trials of the same sweep."""
    owner, sharers = pairs.comparison[pairs.round_trial], pairs.legs.number["slots_per_node"]
    most = np.fmax(sharers[pairs.arm_leg], sharers[pairs.base_leg])
    for k in np.unique(owner[most > 1]):
        yield int(k), caveat("shared_node", trials=float(np.nanmax(most[owner == k])))


def _skipped_steps(pairs: Pairs) -> Found:
    for name, skipped, k in _by_side(pairs, pairs.legs.number["skipped_steps"]):
        yield k, caveat("skipped_steps", arm=name, steps=skipped)


def _input_bound(pairs: Pairs) -> Found:
    for name, share, k in _by_side(pairs, pairs.legs.steps.data_share):
        if share > INPUT_BOUND_SHARE:
            yield k, caveat("input_bound", arm=name, share=share)


def _steps_of_scripts(pairs: Pairs) -> Found:
    arm = pairs.legs.text["arm"]
    for k, _, own, base in unequal_steps(pairs, scripts=True):
        yield k, caveat("steps_of_scripts", base=base, baseline=pairs.baseline, own=own, arm=arm[pairs.example[k]])


def _scripts(pairs: Pairs) -> Found:
    """Each caveat once per comparison, though the facts of its trials' legs may differ slightly."""
    yield from dict.fromkeys(script_caveats(pairs))


def _drift(pairs: Pairs, margin: float) -> Found:
    for name, drift, k in _by_side(pairs, pairs.legs.steps.drift):
        if abs(drift) > margin:
            yield k, caveat("drift", arm=name, drift=float(np.expm1(drift)))


def _by_side(pairs: Pairs, values: Floats) -> Iterator[tuple[str, float, int]]:
    """For both sides of every comparison: (arm's name, mean over its paired legs, comparison)."""
    owner, arm = pairs.comparison[pairs.round_trial], pairs.legs.text["arm"]
    for leg, is_base in ((pairs.base_leg, True), (pairs.arm_leg, False)):
        told = np.isfinite(values[leg])
        means = mean_by(owner[told], values[leg[told]], len(pairs.counts))
        for k in np.flatnonzero(np.abs(means) > 0):
            yield (pairs.baseline if is_base else arm[pairs.example[k]]), float(means[k]), int(k)


def _order_effect(pairs: Pairs, margin: float, alpha: float) -> Found:
    """Whether it matters which arm ran first: differences of rounds by order, within trials, with Holm.

    The order is counterbalanced, so the speedup is not biased; but its interval widens, and carry-over may bias it.
    """
    position = pairs.legs.number["position"]
    first = position[pairs.arm_leg] < position[pairs.base_leg]
    rounds = pairs.round_logs(pairs.legs.steps.mean_seconds)
    told = np.isfinite(rounds)
    trials = len(pairs.differences)
    gaps = mean_by(pairs.round_trial[first & told], rounds[first & told], trials) - mean_by(
        pairs.round_trial[~first & told], rounds[~first & told], trials
    )
    both = np.isfinite(gaps)
    size = len(pairs.counts)
    mean, deviation = group_moments(gaps[both], pairs.comparison[both], size)
    p = adjust(p_against(np.bincount(pairs.comparison[both], minlength=size), mean, deviation))
    for k in np.flatnonzero((p < alpha) & (np.abs(mean) > margin)):
        effect = float(np.sign(mean[k]) * np.expm1(abs(mean[k])))
        yield int(k), caveat("order_matters", effect=effect, arm=pairs.legs.text["arm"][pairs.example[k]])
