"""Builds an analysis's document: the answer, the results, why, how sure, how to repeat it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from raybench.analysis import Analysis, ArmSummary, Comparison, Sensitivity
from raybench.caveats import Weight, ranked
from raybench.show import findings, memory_table, sections, units, words
from raybench.show.document import (
    Answer,
    Answers,
    Block,
    Cell,
    Code,
    Column,
    Document,
    Figure,
    Heading,
    Items,
    Paragraph,
    Row,
    Section,
    Strip,
    Table,
    Terms,
    columns,
    row,
)
from raybench.show.plot import Plot
from raybench.stores.storage import AnyPath

MOST_ROWS: Final = 400  # of a list, and of a table without filters
_FEW_ARMS: Final = 6
_MOST_NOTES: Final = 2
_ALONE: Final = " (intervals are not corrected for how many there are)"
_MOST_TURNS: Final = 2  # verdict-changing caveats in the answer
_WEIGHTS: Final = {
    Weight.CHANGES: "by which a verdict would be another, or none",
    Weight.DOUBTS: "on what an interval or a mean rests on",
    Weight.TELLS: "on how a number came about",
}
MARK: Final = "†"
_GIVEN_BY_US: Final = re.compile("[0-9a-f]{8}")


def build(
    analysis: Analysis,
    paths: Sequence[AnyPath] = (),
    plots: Sequence[Plot] = (),
    title: str = "",
) -> Document:
    """The document of an analysis; with the `paths` of its ledgers it includes how to repeat them."""
    return Document(
        title or _title(analysis),
        tuple(_answer(analysis)),
        (
            Section("found", "What was found", tuple(_found(analysis, paths, plots))),
            Section("why", "Why", tuple(_why(analysis, plots))),
            Section("sure", "How sure", tuple(_sure(analysis, plots))),
            *([Section("again", "How to repeat it", tuple(_again(analysis, paths)))] if paths else []),
        ),
    )


def _title(analysis: Analysis) -> str:
    """The question and the sweeps; a name that raybench generated from the space's content is left out."""
    spaces, sweeps = (analysis.pairs.legs.text[name] for name in ("space", "sweep"))
    places = np.unique(np.stack([spaces.codes, sweeps.codes]), axis=1).T.tolist()
    names = [
        spaces.names[a] if _GIVEN_BY_US.fullmatch(sweeps.names[b]) else f"{spaces.names[a]}, {sweeps.names[b]}"
        for a, b in places
    ]
    arms = list(dict.fromkeys(c.arm for c in analysis.comparisons))
    whom = arms[0] if len(arms) == 1 else units.count(len(arms), "arm")
    return f"{'; '.join(names[:3])}: {whom} against {analysis.baseline}"


def _answer(analysis: Analysis) -> Iterable[Block]:
    several = len({arm.hardware for arm in analysis.arms}) > 1
    yield Answers(
        tuple(
            Answer(
                f"{one.summary.arm} ({one.summary.hardware or 'hardware not named'})" if several else one.summary.arm,
                one.verdict,
                one.sentence,
                one.counts,
                units.ratio(one.interval.value),
                units.interval(one.interval),
                _arm_strip(one, analysis),
            )
            for one in _in_order(words.arm_answers(analysis))
        ),
        analysis.margin,
        analysis.baseline,
        "time" if words.ratio_name(analysis) == "speedup" else "memory",
        words.ratio_name(analysis),
    )
    if closing := words.none_helps(analysis):
        yield Paragraph(closing)
    notes = [one for one in ranked(analysis.caveats) if one.weight < Weight.TELLS]
    for note in notes[:_MOST_NOTES]:
        yield Paragraph(f"{note}.", lead="Note:")
    if len(notes) > _MOST_NOTES:
        yield Paragraph(f"{len(notes) - _MOST_NOTES} more among the caveats.", lead="Note:")
    turns = list({id(c): (c, other) for c, other in reversed(turning(analysis))}.values())[::-1]  # one of each
    if turns:
        left = len(turns) - _MOST_TURNS
        told = "; ".join(words.otherwise(c, other) for c, other in turns[:_MOST_TURNS])
        more = f"; and {left} more, marked {MARK}" if left > 0 else f" (marked {MARK})"
        yield Paragraph(f"{told}{more}.", lead=f"Not robust, {units.count(len(turns), 'verdict')}:")
    unequal = [c for c in analysis.comparisons if c.verdict == "not comparable" and c.caveats]
    if unequal:
        first, more = unequal[0], f"; and {len(unequal) - 1} more" if len(unequal) > 1 else ""
        told = f"{first.arm}, {first.where.setting}: {first.caveats[0]}{more}."
        yield Paragraph(told, lead="Not the same experiment:", verdict="not comparable")
    if analysis.num_failed_legs:
        yield Paragraph(_failed_in_short(analysis), lead="Failed:")
    differ = "".join(f" {note[:1].upper()}{note[1:]}." for note in words.also_differ(analysis))
    lighter = sum(one.weight > Weight.CHANGES for one in findings.caveats(analysis))
    told = f" {units.count(lighter, 'caveat')} {'changes' if lighter == 1 else 'change'} no verdict." if lighter else ""
    yield Paragraph(
        f"{words.ratio_meaning(analysis)}; effects within {units.percent(analysis.margin)} count "
        f"as none. {units.count(analysis.num_legs, 'leg')}, {units.count(len(analysis.comparisons), 'comparison')}, "
        f"corrected by {words.multiplicity(analysis)}.{_where(analysis)}{differ}{told}",
        quiet=True,
    )


def _in_order(answers: list[words.ArmAnswer]) -> list[words.ArmAnswer]:
    """Many arms are sorted by verdict and speedup, so that the most interesting come first; few keep their order."""
    if len(answers) <= _FEW_ARMS:
        return answers
    order = list(words.MEANINGS)
    return sorted(answers, key=lambda one: (order.index(one.verdict), -(one.interval.value or 0.0)))


def _where(analysis: Analysis) -> str:
    names = [name for name in analysis.hardware if name]
    return f" On {' and '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}." if names else ""


def _failed_in_short(analysis: Analysis) -> str:
    """As `4 of 36 legs: 3 of zero3 (out of memory), 1 of zero1 (timeout)`."""
    of_arms = Counter[tuple[str, str]]()
    for one in findings.failures(analysis):
        of_arms[one.arm, one.kind.replace("_", " ")] += one.num_legs
    told = [f"{number} of {arm} ({kind})" for (arm, kind), number in of_arms.most_common(_MOST_NOTES)]
    left = len(of_arms) - len(told)
    more = f" and {units.count(left, 'more cause')}" if left else ""
    return f"{analysis.num_failed_legs} of {units.count(analysis.num_legs, 'leg')}: {', '.join(told)}{more}."


def turning(analysis: Analysis) -> list[tuple[Comparison, Sensitivity]]:
    """Comparisons whose verdict changes under another way of judging, with that way; claims before undecided ones."""
    found = [
        (c, other)
        for c in analysis.comparisons
        if c.verdict != "not comparable"
        for other in c.sensitivity
        if other.verdict != c.verdict
    ]
    return sorted(found, key=lambda pair: pair[0].verdict == "undecided")


def _arm_strip(one: words.ArmAnswer, analysis: Analysis) -> Strip | None:
    if one.interval.value is None:
        return None
    points = tuple(
        c.speedup.value
        for c in analysis.comparisons
        if c.arm == one.summary.arm and c.where.hardware == one.summary.hardware and c.speedup.value is not None
    )
    plain = one.summary.fixed if len(points) > 1 else None
    low, high = (plain.low, plain.high) if plain else (one.interval.low, one.interval.high)
    return Strip(
        one.interval.value, low, high, one.interval.low, one.interval.high, one.verdict,
        points if len(points) > 1 else (),
    )  # fmt: skip


def _strip(c: Comparison) -> Strip | None:
    if c.speedup.value is None:
        return None
    claim = c.judgement.interval
    return Strip(c.speedup.value, c.speedup.low, c.speedup.high, claim.low, claim.high, c.verdict)


def _figures(plots: Sequence[Plot], section: str) -> list[Figure]:
    return [Figure(plot) for plot in plots if plot.section == section]


def _found(analysis: Analysis, paths: Sequence[AnyPath], plots: Sequence[Plot]) -> Iterable[Block]:
    yield from _figures(plots, "answer")
    yield comparison_table(analysis, findings.tracked_links(analysis, paths))
    present = dict.fromkeys(c.verdict for c in analysis.comparisons)
    terms = tuple((verdict, meaning) for verdict, meaning in words.meanings(analysis).items() if verdict in present)
    yield Terms("What the verdicts mean", terms, verdicts=True)
    if any(arm.n_compared > 1 for arm in analysis.arms):
        yield arm_table(analysis, "Over the settings", [("", arm) for arm in analysis.arms if arm.n_settings > 1])
    if families := tuple(_of_families(analysis)):
        yield Items("One more model of a family", families)
    if analysis.groups:
        by = analysis.groups[0].by
        yield arm_table(analysis, f"By {by}", [(group.value, group.summary) for group in analysis.groups], by)
    yield from _figures(plots, "found")


def _of_families(analysis: Analysis) -> Iterable[str]:
    """What to expect of one more model of each measured family, one line per arm."""
    for arm in analysis.arms:
        told = [
            f"{one.family} {units.estimate(one.speedup)}" for one in arm.predictions if one.speedup.level is not None
        ]
        if told:
            yield f"{arm.arm}: {', '.join(told)}"


def comparison_table(analysis: Analysis, links: Mapping[tuple[str, str], str] | None = None) -> Table:
    """Every comparison with absolute costs beside the ratio, grouped by family.

    `links`: the target of an arm's cell, by setting_id and arm.
    """
    per = _unit(analysis)
    needed = any(c.judgement.trials_needed for c in analysis.comparisons)
    accuracy = any(c.accuracy.value is not None for c in analysis.comparisons)
    tokens = any(c.treated.tokens_per_second is not None for c in analysis.comparisons)
    names = [
        "setting",
        "arm",
        "verdict",
        words.ratio_name(analysis),
        "interval",
        "n",
        f"{analysis.baseline}{per}",
        f"arm{per}",
        *[f"{analysis.baseline}, tokens/s", "arm, tokens/s"] * tokens,
        "memory",
    ]
    names += ["trials to settle"] * needed + ["accuracy, points"] * accuracy + ["failed"]
    several = len({c.where.family for c in analysis.comparisons}) > 1
    rows = []
    for c in sorted(analysis.comparisons, key=lambda c: c.where.family if several else ""):
        claim = c.judgement.interval
        note = "; ".join(one.text for one in c.caveats if one.weight == Weight.CHANGES)
        unit = f" a {c.seconds_per}" if not per and c.seconds_per != "byte" else ""
        costs = [
            Cell(f"{units.cost(value, c.seconds_per)}{unit}" if value is not None else "", _key(value))
            for value in (c.baseline.seconds, c.treated.seconds)
        ]
        rates = [Cell(units.number(side.tokens_per_second), _key(side.tokens_per_second))
                 for side in (c.baseline, c.treated)] * tokens  # fmt: skip
        ratio = c.memory.ratio.value
        cells = [
            Cell(words.setting_of(c, analysis)),
            Cell(c.arm, link=(links or {}).get((c.where.setting_id, c.arm), "")),
            Cell(words.verdict_of(c) + (f" {MARK}" if note else ""), verdict=c.verdict, note=note),
            Cell(units.ratio(c.speedup.value), _key(c.speedup.value)),
            Cell(units.interval(claim), _key(claim.low)),
            Cell(str(c.n_trials), str(c.n_trials)),
            *costs,
            *rates,
            Cell("" if ratio is None else f"× {ratio:.2f}", _key(ratio)),
        ]
        if needed:
            trials = c.judgement.trials_needed
            cells.append(Cell("" if trials is None else f"{trials:,}", str(trials or "")))
        if accuracy:
            cells.append(Cell(units.points(c.accuracy.value), _key(c.accuracy.value)))
        cells.append(Cell(str(c.failures), str(c.failures)))
        rows.append(Row(tuple(cells), (c.where.family or "no family named") if several else "", _strip(c)))
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in words.also_differ(analysis))
    buckets = memory_table.buckets_in_words(analysis.comparisons)
    doubtful = any(one.weight == Weight.CHANGES for c in analysis.comparisons for one in c.caveats)
    marked = f" {MARK} A caveat changes this verdict; pointing at it names the caveat." if doubtful else ""
    return Table(
        "comparisons",
        f"Every arm in every setting, against {analysis.baseline}",
        tuple(
            Column(name, name not in ("setting", "arm", "verdict"), detail=place > 4)
            for place, name in enumerate(names)
        ),
        tuple(rows),
        note=f"The interval is the one that the verdict came from, {words.multiplicity(analysis)}-corrected."
        f"{marked}{notes}{f' {buckets}' if buckets else ''}",
        margin=analysis.margin,
        filters=len(rows) > 8,
    )


def compact_table(analysis: Analysis) -> Table:
    """The comparisons for a paper or a pull request, with the interval behind each verdict."""
    per = _unit(analysis)
    costs = f"{analysis.baseline}{per}", f"arm{per}"
    names = ["setting", "arm", "verdict", words.ratio_name(analysis), "interval", "n", *costs, "memory", "failed"]
    rows = []
    for c in analysis.comparisons:
        mark = f" {MARK}" if any(one.weight == Weight.CHANGES for one in c.caveats) else ""
        rows.append(
            row(
                c.where.setting,
                c.arm,
                Cell(c.verdict + mark, verdict=c.verdict),
                units.ratio(c.speedup.value),
                units.interval(c.judgement.interval),
                str(c.n_trials),
                units.cost(c.baseline.seconds, c.seconds_per),
                units.cost(c.treated.seconds, c.seconds_per),
                units.ratio(c.memory.ratio.value, 2),
                str(c.failures),
            )
        )
    numbers = tuple(names[3:])
    note = "; ".join(words.also_differ(analysis))
    return Table("comparisons", "", columns(*names, numbers=numbers), tuple(rows), note=note)


def _key(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _unit(analysis: Analysis) -> str:
    """The unit of every cost in the table, for its heads; empty where rows differ and state their own."""
    per = {c.seconds_per for c in analysis.comparisons}
    return f", a {per.pop()}" if len(per) == 1 and "byte" not in per else ""


def arm_table(analysis: Analysis, title: str, summaries: Sequence[tuple[str, ArmSummary]], by: str = "") -> Table:
    """The arms over their settings, by the values of one column if `by` is given."""
    several = len({arm.hardware for _, arm in summaries}) > 1
    names = [by] * bool(by) + ["arm"] + ["hardware"] * several
    names += ["settings", "mean", "median", "quartiles", "these settings", "settings like these", "one more setting"]
    rows = []
    for value, arm in summaries[:MOST_ROWS]:
        few = f"too few: {arm.n_compared}" if 0 < arm.n_compared < words.MIN_SETTINGS else ""
        rows.append(
            row(
                *[value] * bool(by),
                arm.arm,
                *[arm.hardware] * several,
                str(arm.n_settings),
                units.ratio(arm.fixed.value),
                units.ratio(arm.quartiles.value),
                units.interval(arm.quartiles),
                units.interval(arm.fixed),
                few or units.interval(arm.population),
                few or units.interval(arm.prediction),
                words.tally(arm),
            )
        )
    numbers = ("settings", "mean", "median", "quartiles", "these settings", "settings like these", "one more setting")
    notes = "".join(f" {note[:1].upper()}{note[1:]}." for note in words.also_differ(analysis))
    return Table(
        f"arms{f'-by-{by}' if by else ''}",
        title,
        columns(*names, "verdicts", numbers=numbers, folds=("verdicts",)),
        tuple(rows),
        note="Geometric means. “These settings” is about exactly these; “settings like these” about the mean of a "
        f"population; “one more setting” is what to expect of the next.{notes}",
    )


def _why(analysis: Analysis, plots: Sequence[Plot]) -> Iterable[Block]:
    lists = {
        "Rung by rung": [
            words.rungs_in_words(one) for one in sorted(analysis.ladders, key=lambda one: bool(one.setting))
        ],
        "Memory for speed": _said(analysis, words.trade_off),
        "Who holds memory": _said(analysis, words.memory_held),
        "Work": _said(analysis, words.work_done),
        "Where a step's time goes (profiled legs)": sections.explanations_in_words(analysis),
        "What batch would be enough": sections.enough_in_words(analysis),
        "Set-up": _said(analysis, words.break_even),
        "The largest batch": [words.largest_in_words(one) for one in analysis.largest],
        f"Best batch against best batch{_ALONE}": [words.best_in_words(one) for one in analysis.best],
        f"Scaling{_ALONE}": [words.scaling_in_words(one) for one in analysis.scaling],
    }
    figures = _figures(plots, "why")
    yield from figures
    for title, items in lists.items():
        if items:
            yield Items(title, tuple(items[:MOST_ROWS]), most=6)
    if table := memory_table.prediction_table(analysis):
        yield table
    if table := sections.roofline_table(analysis):
        yield table
    yield from sections.further_blocks(analysis)
    if not figures and not any(lists.values()):
        yield Paragraph("The ledger records neither phases nor memory that would tell the arms apart.")


def _said(analysis: Analysis, sentence: Callable[[Comparison], str | None]) -> list[str]:
    return [text for c in analysis.comparisons if (text := sentence(c))]


def _sure(analysis: Analysis, plots: Sequence[Plot]) -> Iterable[Block]:
    turns = turning(analysis)
    if turns:
        rows = [
            row(f"{c.arm}, {words.setting_of(c, analysis)}", Cell(c.verdict, verdict=c.verdict), other.kind,
                Cell(units.ratio(other.speedup), _key(other.speedup)), Cell(other.verdict, verdict=other.verdict))
            for c, other in turns[:MOST_ROWS]
        ]  # fmt: skip
        names = columns("comparison", "verdict", "judged by", "speedup", "verdict then", numbers=("speedup",))
        note = f"Both verdicts with {words.multiplicity(analysis)}'s correction over all comparisons."
        yield Table("otherwise", "Where judging otherwise gives another verdict", names, tuple(rows), note=note)
    caveats = findings.caveats(analysis)
    for weight, what in _WEIGHTS.items():
        texts = tuple(f"{one.text} ({one.places})" for one in caveats if one.weight == weight)
        if texts:
            yield Items(f"{units.count(len(texts), 'caveat')} {what}", texts[:MOST_ROWS], folded=True)
    if not caveats:
        yield Paragraph("No caveat was found.")
    if order := words.order_in_words(analysis):
        yield Items("What the order of legs and trials did", tuple(order), folded=True)
    yield from _figures(plots, "sure")
    failed = findings.failures(analysis)
    if failed:
        rows = [
            row(one.arm, one.kind, Cell(str(one.num_legs), str(one.num_legs)), one.places, one.message)
            for one in failed[:MOST_ROWS]
        ]
        names = columns("arm", "cause", "legs", "settings", "first message", numbers=("legs",),
                        folds=("settings", "first message"))  # fmt: skip
        yield Table("failures", "Failures", names, tuple(rows))
    yield Items("How this was obtained", tuple(words.how_obtained(analysis)))


def _again(analysis: Analysis, paths: Sequence[AnyPath]) -> Iterable[Block]:
    yield Code("Commands", "\n".join(findings.commands(analysis, paths)))
    yield Heading("Where the machine time went")
    yield from sections.cost_blocks(analysis)
    for sweep in findings.tracked(analysis, paths):
        ui = " Start mlflow ui in the folder of the sweep first." if sweep.needs_ui else ""
        told = Cell(sweep.sweep, link=sweep.page)
        about = f"every leg as a run, this report among the artifacts.{ui}"
        yield Table(f"mlflow-{sweep.sweep}", "In MLflow", columns("sweep", "what is there"), (row(told, about),))
    rows = [
        row(arm.name + (" (baseline)" if arm.name == analysis.baseline else ""), arm.engine, arm.config)
        for arm in findings.arms(analysis)[:MOST_ROWS]
    ]
    yield Table("definitions", "Arms", columns("arm", "engine", "asked for", folds=("asked for",)), tuple(rows))
    same, different, arms = findings.facts(analysis)
    if different:
        rows = [row(key, *values) for key, values in different]
        yield Table(
            "facts", "What was not equal in the arms of the first setting, as found at run time",
            columns("fact", *arms, folds=tuple(arms)), tuple(rows),
            note="Those named informative may differ; any other that differs without the space declaring it makes arms "
            "not comparable.",
        )  # fmt: skip
    if same:
        title = f"What was equal in all arms of the first setting ({units.count(len(same), 'fact')})"
        yield Terms(title, tuple(same))
    yield Terms("Environment", tuple(findings.environment(analysis)))
    for name, text in findings.spaces(paths)[:20]:
        yield Code(f"The space as it was run: {name}", text, folded=True)
