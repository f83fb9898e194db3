"""The page: an analysis and its figures into one HTML file that needs nothing else. Every text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raybench import __version__
from raybench.analysis import Analysis, ArmSummary, Comparison
from raybench.show import findings
from raybench.show.figures.speedups import label
from raybench.show.figures.style import COLOURS, VERDICT_STYLE, Plot, inline_svg
from raybench.show.terminal import MIN_SETTINGS, cost, how_obtained, tally
from raybench.show.words import also_differ, answer_in_words, break_even, memory_held, percent, trade_off, work_done
from raybench.stores.storage import AnyPath

MOST_ROWS: Final = 400  # of a table, and of a list
_DARK: Final = {
    "ink": "#e6e9ed",
    "quiet": "#a3adb8",
    "grid": "#333a42",
    "band": "#2a3038",
    "blue": "#4ba3e3",
    "vermillion": "#f0813a",
    "green": "#2fbf91",
    "orange": "#e0a83a",
    "purple": "#d488b6",
    "sky": "#8cc8ee",
    "olive": "#bdb73d",
}
MEANINGS: Final = {
    "helps": "the arm is faster by more than the margin",
    "hurts": "the arm is slower by more than the margin",
    "no effect": "shown to be within the margin; absence of evidence is not this",
    "undecided": "the interval allows more than one of these; more trials would settle it",
    "unlocks": "the arm ran, the baseline ran out of memory",
    "blocked": "the baseline ran, the arm ran out of memory",
    "failed": "one side failed, not for want of memory; the cause is among the failures",
    "both failed": "neither side ran",
    "not comparable": "the arms were not the same experiment, so there is no verdict",
}


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and what it is sorted by."""

    text: str
    key: str = ""
    link: str = ""


@dataclass(frozen=True)
class Row:
    """One comparison as a table's row; the first cell names it."""

    cells: tuple[Cell, ...]
    verdict: str


def render_page(
    analysis: Analysis, paths: Sequence[AnyPath], plots: Sequence[Plot], drawings: Mapping[str, str]
) -> str:
    """The whole page; `drawings` holds each plot's SVG by its name."""
    environment = Environment(
        loader=PackageLoader("raybench.show", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    sweeps = findings.tracked(analysis, paths)
    header, rows = comparison_table(analysis, {key: page for one in sweeps for key, page in one.compare.items()})
    figures: list[dict[str, Any]] = [
        # The one text that is not escaped here: matplotlib's drawing, which escapes every name in it.
        {"plot": plot, "svg": Markup(inline_svg(drawings[plot.name], plot.name, escape(plot.title)))}  # noqa: S704
        for plot in plots
    ]
    same_facts, different_facts, fact_arms = findings.facts(analysis)
    verdicts = dict.fromkeys(c.verdict for c in analysis.comparisons)
    environment.filters["nobreak"] = lambda text: text.replace(" %", "\u00a0%")
    page: str = environment.get_template("page.html").render(
        analysis=analysis,
        title=f"raybench: {', '.join(analysis.sweeps)}",
        answer=answer_in_words(analysis),
        notes=[f" {note[:1].upper()}{note[1:]}." for note in also_differ(analysis)],
        light=COLOURS,
        dark=_DARK,
        verdict_colours={verdict: colour for verdict, (colour, _) in VERDICT_STYLE.items()},
        meanings={verdict: MEANINGS[verdict] for verdict in MEANINGS if verdict in verdicts},
        figures={part: [one for one in figures if one["plot"].section == part] for part in ("found", "why", "sure")},
        header=header,
        rows=rows,
        num_left_out=max(0, len(analysis.comparisons) - MOST_ROWS),
        arm_rows=[_arm_row(arm, analysis) for arm in analysis.arms if arm.n_compared > 1][:MOST_ROWS],
        reasons=_reasons(analysis),
        sensitivities=_sensitivities(analysis),
        failures=findings.failures(analysis)[:MOST_ROWS],
        caveats=findings.caveats(analysis)[:MOST_ROWS],
        method=how_obtained(analysis),
        arms=findings.arms(analysis)[:MOST_ROWS],
        same_facts=same_facts,
        different_facts=different_facts,
        fact_arms=fact_arms,
        environment=findings.environment(analysis),
        commands=findings.commands(analysis, paths),
        spaces=findings.spaces(paths)[:20],
        sweeps=sweeps[:MOST_ROWS],
        percent=percent,
        version=__version__,
    )
    return page


def comparison_table(
    analysis: Analysis, links: Mapping[tuple[str, str], str] | None = None
) -> tuple[list[str], list[Row]]:
    """Header and rows of the comparisons (the first `MOST_ROWS`), absolute costs beside the ratio.

    `links`: where an arm's cell leads, by setting_id and arm.
    """
    per = _unit(analysis)
    header = [
        "setting",
        "arm",
        "speedup",
        "verdict",
        "interval",
        "n",
        f"{analysis.baseline}{per}",
        f"arm{per}",
        "memory",
    ]
    if any(c.judgement.trials_needed for c in analysis.comparisons):
        header.append("trials to settle")
    if any(c.accuracy.value is not None for c in analysis.comparisons):
        header.append("accuracy, points")
    header.append("failed")
    rows = [_row(c, label(c, analysis), not per, header) for c in analysis.comparisons[:MOST_ROWS]]
    if links:
        pages = [links.get((c.where.setting_id, c.arm), "") for c in analysis.comparisons]
        rows = [
            replace(row, cells=(row.cells[0], replace(row.cells[1], link=page), *row.cells[2:]))
            for row, page in zip(rows, pages, strict=False)
        ]
    return header, rows


def _unit(analysis: Analysis) -> str:
    """What every cost of the table is of, for its heads; empty where rows differ, which then say it each."""
    units = {c.seconds_per for c in analysis.comparisons}
    return f", a {units.pop()}" if len(units) == 1 and "byte" not in units else ""


def _row(c: Comparison, setting: str, with_unit: bool, header: list[str]) -> Row:
    interval = (
        "" if c.judgement.interval.low is None else f"{c.judgement.interval.low:.3f} to {c.judgement.interval.high:.3f}"
    )
    verdict = f"{c.verdict}, less accurate" if c.quality == "worse" else c.verdict
    unit = f" a {c.seconds_per}" if with_unit and c.seconds_per != "byte" else ""
    costs = [
        Cell(f"{cost(value, c.seconds_per)}{unit}" if value is not None else "", _key(value))
        for value in (c.baseline.seconds, c.treated.seconds)
    ]
    accuracy = Cell("" if c.accuracy.value is None else f"{100 * c.accuracy.value:+.2f}", _key(c.accuracy.value))
    needed = Cell(*[str(c.judgement.trials_needed or "")] * 2)
    cells = (
        Cell(setting),
        Cell(c.arm),
        Cell("" if c.speedup.value is None else f"{c.speedup.value:.3f}", _key(c.speedup.value)),
        Cell(verdict),
        Cell(interval, _key(c.judgement.interval.low)),
        Cell(str(c.n_trials), str(c.n_trials)),
        *costs,
        Cell("" if c.memory.ratio.value is None else f"× {c.memory.ratio.value:.2f}", _key(c.memory.ratio.value)),
        *([needed] if "trials to settle" in header else []),
        *([accuracy] if "accuracy, points" in header else []),
        Cell(str(c.failures), str(c.failures)),
    )
    return Row(cells, c.verdict)


def _key(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _arm_row(arm: ArmSummary, analysis: Analysis) -> dict[str, Any]:
    def between(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"

    few = f"too few: {arm.n_compared}" if arm.n_compared < MIN_SETTINGS else ""
    return {
        "arm": f"{arm.arm} ({arm.hardware})" if len(analysis.hardware) > 1 else arm.arm,
        "settings": arm.n_settings,
        "mean": "" if arm.population.value is None else f"{arm.population.value:.3f}",
        "median": "" if arm.quartiles.value is None else f"{arm.quartiles.value:.3f}",
        "quartiles": between(arm.quartiles.low, arm.quartiles.high),
        "these": between(arm.fixed.low, arm.fixed.high),
        "like_these": few or between(arm.population.low, arm.population.high),
        "one_more": few or between(arm.prediction.low, arm.prediction.high),
        "verdicts": tally(arm),
    }


def _reasons(analysis: Analysis) -> list[str]:
    """Sentences that say what a speedup was paid with, or made of."""
    found = [one.sentence() for one in sorted(analysis.ladders, key=lambda one: bool(one.setting))]
    found += [text for c in analysis.comparisons if (text := trade_off(c))]
    found += [one.sentence() for one in analysis.largest]
    found += [text for c in analysis.comparisons if (text := memory_held(c))]
    found += [text for c in analysis.comparisons if (text := break_even(c))]
    found += [text for c in analysis.comparisons if (text := work_done(c))]
    return found[:MOST_ROWS]


def _sensitivities(analysis: Analysis) -> list[tuple[str, str, str, str]]:
    """(comparison, judged how, speedup, verdict) where another way to judge gives another verdict."""
    return [
        (
            f"{c.arm}, {c.where.setting}: {c.verdict}",
            other.kind,
            "" if other.speedup is None else f"{other.speedup:.3f}",
            other.verdict,
        )
        for c in analysis.comparisons
        if c.verdict != "not comparable"
        for other in c.sensitivity
        if other.verdict != c.verdict
    ][:MOST_ROWS]
