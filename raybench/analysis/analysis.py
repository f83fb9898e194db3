"""The whole analysis: ledgers -> legs -> pairs -> comparisons -> arms, for one question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from raybench.analysis.arrays import Coded, parse_object, versions_of
from raybench.analysis.comparability import configurations_over_settings
from raybench.analysis.comparisons import build_comparisons
from raybench.analysis.legs import Legs, read_legs
from raybench.analysis.order import CarryOver, Dependence, carry_over, dependence
from raybench.analysis.pairs import Pairs, pair_trials
from raybench.analysis.question import declared_beside, find_metric, log_cost
from raybench.analysis.results import ArmSummary, Comparison, GroupSummary
from raybench.analysis.summaries import GROUPINGS, summarize_arms, summarize_groups
from raybench.analysis.views.costs import Costs, account
from raybench.analysis.views.enough import EnoughBatch, enough_batches
from raybench.analysis.views.explanations import Explanation, explain, profiled
from raybench.analysis.views.further import Further, NetworkSpeed, further_quantities, networks
from raybench.analysis.views.ladder import Ladder, declared_chain, decompose, find_chain
from raybench.analysis.views.roofline import Roofline, rooflines
from raybench.analysis.views.scaling import (
    BestBatch,
    Efficiency,
    LargestBatch,
    Profile,
    best_against_best,
    largest_batches,
    performance_profiles,
    scaling_efficiency,
)
from raybench.caveats import Caveat, caveat
from raybench.declare.repeats import Look
from raybench.errors import UserError
from raybench.statistics.estimate import plain
from raybench.statistics.moderation import Variance
from raybench.statistics.multiplicity import Multiplicity
from raybench.stores.storage import AnyPath
from raybench.text import suggest

SCHEMA_VERSION: Final = 1  # of the open format
_NOT_SMALL: Final = 1 / 3  # of the margin; a carry-over above this share is a caveat


@dataclass(frozen=True)
class Analysis:
    """All results from the ledgers, and the question that was asked."""

    margin: float
    alpha: float
    multiplicity: Multiplicity  # the error rate over all claims that is held at alpha
    variance: Variance
    baseline: str
    metric: str
    quality_margin: float  # accuracy that an arm may lose and still count as equal
    pool_hardware: bool  # whether all machines are treated as one
    chain: tuple[str, ...]  # the arms taken apart as a ladder; empty for none
    comparisons: tuple[Comparison, ...]
    arms: tuple[ArmSummary, ...]
    groups: tuple[GroupSummary, ...]
    ladders: tuple[Ladder, ...]
    profiles: tuple[Profile, ...]
    scaling: tuple[Efficiency, ...]
    best: tuple[BestBatch, ...]
    enough_batches: tuple[EnoughBatch, ...]  # where a fixed cost falls below the margin, if the batches show it
    carry_over: tuple[CarryOver, ...]  # from leg to leg, by the preceding leg's engine
    dependence: Dependence | None  # of trials close in time
    largest: tuple[LargestBatch, ...]  # how each arm's largest batch was found, where it was searched for
    explanations: tuple[Explanation, ...]  # of profiled legs; empty where there are none
    rooflines: tuple[Roofline, ...]  # a step's minimum time on the machine; empty without rates and energy
    costs: Costs  # where the machines' time went
    further: tuple[Further, ...]  # other measured quantities: those with a heading
    networks: tuple[NetworkSpeed, ...]  # between the nodes of a trial; empty where every trial had one node
    caveats: tuple[Caveat, ...]  # of the whole analysis
    ledgers: tuple[str, ...]
    sweeps: tuple[str, ...]
    hardware: tuple[str, ...]
    versions: tuple[str, ...]
    num_legs: int
    num_failed_legs: int
    pairs: Pairs = field(repr=False, compare=False)  # the trials behind the results, for further analyses

    def to_json(self) -> dict[str, Any]:
        """The analysis as plain dicts, lists, numbers and None, as `--json` prints it."""
        own = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "pairs"}
        return {"schema_version": SCHEMA_VERSION, **own}


def analyse(
    paths: Sequence[AnyPath],
    *,
    margin: float | None = None,
    alpha: float | None = None,
    multiplicity: str | None = None,
    variance: str | None = None,
    baseline: str | None = None,
    metric: str = "step_seconds",
    by: str | None = None,
    ladder: Sequence[str] = (),
    quality_margin: float | None = None,
    pool_hardware: bool = False,
    looks: tuple[Look, ...] | None = None,
) -> Analysis:
    """Analyse the ledgers at `paths` (folders or files).

    `margin` (a ratio, 0.03 is 3 %), `alpha`, `multiplicity` (`holm` or `fdr`), `variance` (`moderated` or `own`) and
    `quality_margin` default to the `question` of the `_space.yaml` beside the ledgers; without one, `margin` is 0.03
    and `alpha` 0.05. An arm counts as less accurate when it loses more than `quality_margin` (0.01 is one point).
    `baseline` defaults to the arm that the ledgers mark. `metric` is one of `raybench.analysis.question.METRICS`. `by`
    groups the arms' summaries by one of `GROUPINGS`. `ladder` is a chain of arms to take apart; it defaults to the
    space's (`chain: true`). `pool_hardware` treats all machines as one. `looks` are those taken at a sweep that stops
    when settled; they default to the ones recorded beside the ledger. Raises UserError for bad input, in one line.
    """
    asked = {"margin": margin, "alpha": alpha, "quality_margin": quality_margin, "multiplicity": multiplicity}
    given = {name for name, value in asked.items() if value is not None}
    declared = declared_beside(paths)
    margin, alpha = declared.margin(margin), declared.alpha(alpha)
    rule = declared.rule(margin, alpha, multiplicity, variance)
    quality_margin = declared.quality_margin(quality_margin)
    by = "global_batch" if by in ("batch", "batch_size") else by
    if by is not None and by not in GROUPINGS:
        raise UserError(f"by={by}: {suggest(by, GROUPINGS)}")
    chosen = find_metric(metric)
    every_leg = read_legs(paths)
    looks = declared.looks() if looks is None else looks
    legs = every_leg.take(np.flatnonzero(~profiled(every_leg)))
    baseline = declared.baseline(legs, baseline)
    chain = find_chain(legs, ladder) if ladder else declared_chain(legs)
    cost = chosen.cost(legs)
    logs = log_cost(legs, cost, chosen)
    pairs = pair_trials(legs, cost, baseline, of_steps=chosen.per == "step", pool_hardware=pool_hardware)
    comparisons = build_comparisons(pairs, chosen, rule, quality_margin, looks)
    if pool_hardware:
        comparisons = tuple(replace(c, where=replace(c.where, hardware="")) for c in comparisons)
    follows = carry_over(legs, alpha)
    alike = dependence(pairs)
    return Analysis(
        margin=margin,
        alpha=alpha,
        multiplicity=rule.multiplicity,
        variance=rule.variance,
        baseline=baseline,
        metric=metric,
        quality_margin=quality_margin,
        pool_hardware=pool_hardware,
        chain=tuple(chain),
        comparisons=comparisons,
        arms=summarize_arms(comparisons, rule, stops=looks is not None),
        groups=summarize_groups(comparisons, by, rule, stops=looks is not None) if by else (),
        ladders=decompose(pairs, cost, chain, alpha, of_steps=chosen.per == "step") if chain else (),
        profiles=performance_profiles(legs, logs),
        scaling=scaling_efficiency(legs, logs, alpha) if chosen.per == "step" else (),
        best=best_against_best(legs, logs, baseline, alpha) if chosen.per == "step" else (),
        enough_batches=enough_batches(pairs, comparisons, margin, alpha) if chosen.per == "step" else (),
        carry_over=follows,
        dependence=alike,
        largest=largest_batches(legs),
        explanations=explain(every_leg, baseline),
        rooflines=rooflines(legs, baseline),
        costs=account(every_leg, baseline),
        further=further_quantities(legs),
        networks=networks(legs),
        caveats=(
            *_caveats(legs, comparisons),
            *_order_caveats(follows, alike, margin, alpha),
            *declared.unshared(given),
        ),
        ledgers=tuple(str(path) for path in paths),
        sweeps=_present(legs.text["sweep"]),
        hardware=tuple(name for name in _present(legs.hardware) if name),
        versions=_versions(legs),
        num_legs=len(legs),
        num_failed_legs=int(np.count_nonzero(~legs.ok)),
        pairs=pairs,
    )


def _caveats(legs: Legs, comparisons: Sequence[Comparison]) -> tuple[Caveat, ...]:
    found = []
    if len({c.where.hardware for c in comparisons}) > 1:
        found.append(caveat("hardware_apart"))
    if not comparisons:
        found.append(caveat("baseline_alone"))
    elif not any(c.n_trials for c in comparisons):
        found.append(caveat("nothing_compared"))
    found += [caveat("pooled_arms", arm=arm, what=what) for arm, what in configurations_over_settings(legs)]
    missing = {text for texts in _present(legs.text["missing_instruments"]) for text in texts.split("\n") if text}
    if missing:
        found.append(caveat("missing_instruments", instruments=sorted(missing)))
    return tuple(found)


def _order_caveats(
    follows: Sequence[CarryOver], alike: Dependence | None, margin: float, alpha: float
) -> Iterator[Caveat]:
    """Caveats on effects of the order of legs and of trials that are significant and not small beside the margin."""
    for one in follows:
        ratio, low, high = one.effect.value, one.effect.low, one.effect.high
        if one.p_adjusted is None or one.p_adjusted >= alpha or ratio is None or low is None or high is None:
            continue
        if abs(np.log(ratio)) > np.log1p(margin) * _NOT_SMALL:
            yield caveat("carry_over", engine=one.engine, change=ratio - 1, low=low - 1, high=high - 1)
    if alike is not None and alike.p_value < alpha:
        yield caveat("dependent_trials", correlation=alike.correlation, p_value=alike.p_value)


def _present(column: Coded) -> tuple[str, ...]:
    return tuple(sorted({column.names[code] for code in np.unique(column.codes) if code >= 0}))


def _versions(legs: Legs) -> tuple[str, ...]:
    texts = {
        ", ".join(f"{name} {version}" for name, version in sorted(versions_of(parse_object(text)).items()))
        for text in _present(legs.text["environment"])
    }
    return tuple(sorted(text for text in texts if text))
