"""The analysis for a person at a terminal: the answer in words, then the table, then how it was obtained."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from raybench.analysis.results import VERDICTS, Analysis, ArmSummary, Comparison
from raybench.analysis.scaling import BestBatch, Efficiency
from raybench.show.words import (
    answer_in_words,
    break_even,
    caveat_places,
    memory_held,
    percent,
    size,
    trade_off,
    work_done,
)

MOST_ROWS = 60
MIN_SETTINGS = 3  # from which on an interval for a population of settings is shown; --json has all of them
_COLOURS = {
    "helps": "green",
    "hurts": "red",
    "no effect": "blue",
    "unlocks": "green",
    "blocked": "red",
    "failed": "red",
    "both failed": "red",
    "not comparable": "magenta",
    "undecided": "yellow",
}


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Print everything a reader needs to judge the result; long lists are cut, and say so."""
    console.print(f"[bold]{escape(answer_in_words(analysis))}[/bold]")
    console.print()
    console.print(_comparison_table(analysis))
    if any(arm.n_compared > 1 for arm in analysis.arms):
        console.print(_arm_table("Over the settings", [("", arm) for arm in analysis.arms]))
    if analysis.groups:
        by = analysis.groups[0].by
        console.print(_arm_table(f"By {by}", [(group.value, group.summary) for group in analysis.groups], by))
    _print_list(console, "Rung by rung", [ladder.sentence() for ladder in analysis.ladders])
    _print_list(console, "Memory for speed", [text for c in analysis.comparisons if (text := trade_off(c))])
    _print_list(console, "Who holds memory", [text for c in analysis.comparisons if (text := memory_held(c))])
    _print_list(console, "Work", [text for c in analysis.comparisons if (text := work_done(c))])
    _print_list(console, "Set-up", [text for c in analysis.comparisons if (text := break_even(c))])
    _print_list(console, "The largest batch", [one.sentence() for one in analysis.largest])
    _print_list(console, "Best batch against best batch", [_best(one) for one in analysis.best])
    _print_list(console, "Scaling", [_scaling(one) for one in analysis.scaling])
    _print_list(console, "Failures", _failures(analysis))
    _print_list(console, "Caveats", _caveats(analysis))
    _print_list(console, "How this was obtained", how_obtained(analysis))


def _comparison_table(analysis: Analysis) -> Table:
    """One block a setting: its name, the baseline, then the arms."""
    title = f"Speedup against {analysis.baseline} (above 1 the arm is faster)"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=16)
    table.add_column("verdict", no_wrap=True)
    for name in ("speedup", "interval", "n", _unit(analysis), "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = analysis.comparisons[:MOST_ROWS]
    several = len({c.where.hardware for c in analysis.comparisons}) > 1
    for (hardware, _), block in groupby(shown, key=lambda c: (c.where.hardware, c.where.setting_id)):
        members = list(block)
        name = (
            f"{members[0].where.setting} ({hardware or 'hardware not named'})" if several else members[0].where.setting
        )
        base = next((c.baseline.seconds for c in members if c.baseline.seconds is not None), None)
        table.add_row(f"[bold]{escape(name)}[/bold]")
        table.add_row(escape(f"  {analysis.baseline}"), "baseline", "", "", "", cost(base, members[0].seconds_per))
        for c in members:
            verdict = f"{c.verdict}, less accurate" if c.quality == "worse" else c.verdict
            table.add_row(escape(f"  {c.arm}"), f"[{_COLOURS[c.verdict]}]{verdict}[/]", *_numbers(c, base))
    left = len(analysis.comparisons) - MOST_ROWS
    if left > 0:
        table.caption = f"... and {left} more; --csv and --json give all"
    return table


def _unit(analysis: Analysis) -> str:
    """What the column of costs is a cost of, as `a step`."""
    units = dict.fromkeys(c.seconds_per for c in analysis.comparisons if c.n_trials)
    return " or ".join(f"a {unit}" for unit in units if unit != "byte") or "peak" if units else "a step"


def _numbers(c: Comparison, base: float | None) -> list[str]:
    """Speedup, the verdict's interval, n, the arm's cost and the memory ratio, as text for a row.

    Where the arm's trials are not those of the setting's other arms, its own baseline stands beside its cost.
    """
    interval = (
        "" if c.judgement.interval.low is None else f"{c.judgement.interval.low:.3f} to {c.judgement.interval.high:.3f}"
    )
    own = cost(c.treated.seconds, c.seconds_per)
    if base and c.baseline.seconds and abs(c.baseline.seconds / base - 1) > 5e-4:
        own += f" (against {cost(c.baseline.seconds, c.seconds_per)})"
    speedup = "" if c.speedup.value is None else f"{c.speedup.value:.3f}"
    return [
        speedup,
        interval,
        str(c.n_trials),
        own,
        "" if c.memory.ratio.value is None else f"{c.memory.ratio.value:.2f}",
    ]


def cost(value: float | None, per: str) -> str:
    """Seconds (or bytes) with a unit that suits their size."""
    if value is None:
        return ""
    if per == "byte":
        return size(value)
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{value / scale:.4g} {name}"
    return f"{value / 1e-9:.4g} ns"


def _arm_table(title: str, rows: Iterable[tuple[str, ArmSummary]], by: str = "") -> Table:
    rows = list(rows)
    several = len({summary.hardware for _, summary in rows}) > 1
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = (
        [by] * bool(by)
        + ["hardware"] * several
        + ["arm", "settings", "geometric mean", "these settings", "settings like these", "one more setting", "verdicts"]
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    for value, s in rows[:MOST_ROWS]:
        table.add_row(
            *[escape(value)] * bool(by),
            *[escape(s.hardware)] * several,
            escape(s.arm),
            str(s.n_settings),
            "" if s.population.value is None else f"{s.population.value:.3f}",
            _range(s.fixed.low, s.fixed.high),
            *_population(s),
            tally(s),
        )
    return table


def _population(s: ArmSummary) -> tuple[str, str]:
    """The intervals for settings like these; two settings show too little of a population to be worth reading."""
    if 0 < s.n_compared < MIN_SETTINGS:
        return f"too few: {s.n_compared}", f"too few: {s.n_compared}"
    return _range(s.population.low, s.population.high), _range(s.prediction.low, s.prediction.high)


def tally(summary: ArmSummary) -> str:
    """How many settings have which verdict, those that occur."""
    return ", ".join(f"{summary.tally[verdict]} {verdict}" for verdict in VERDICTS if summary.tally[verdict])


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _best(one: BestBatch) -> str:
    interval = _range(one.speedup.low, one.speedup.high) or "no interval"
    return (
        f"{one.arm} at {one.batch} samples a step against {one.baseline_batch}, {one.model} {one.precision} on "
        f"{one.workers} workers: {one.speedup.value:.3f} ({interval}) of samples a second"
    )


def _scaling(one: Efficiency) -> str:
    interval = _range(one.efficiency.low, one.efficiency.high) or "no interval"
    return (
        f"{one.arm}, {one.model} {one.precision}, {one.scaling} from {one.base_workers} to {one.workers} workers: "
        f"efficiency {one.efficiency.value:.3f} ({interval})"
    )


def _failures(analysis: Analysis) -> list[str]:
    places: dict[tuple[str, str, str], dict[str, int]] = {}
    for c in analysis.comparisons:
        for cause in c.failure_causes:
            places.setdefault((cause.arm, cause.kind, cause.message), {})[c.where.setting] = cause.num_legs
    return [
        f"{arm}: {kind}, {sum(settings.values())} legs in {_places(list(settings))}: {_one_line(message)}"
        for (arm, kind, message), settings in places.items()
    ]


def _caveats(analysis: Analysis) -> list[str]:
    everywhere = len(analysis.comparisons)
    return list(analysis.caveats) + [
        f"{caveat} [{'everywhere' if len(where) == everywhere else _places(where)}]"
        for caveat, where in caveat_places(analysis).items()
    ]


def how_obtained(analysis: Analysis) -> list[str]:
    """The method and the data in a few lines."""
    confidence = percent(1 - analysis.alpha)
    return [
        f"{analysis.num_legs} legs ({analysis.num_failed_legs} failed) of {', '.join(analysis.sweeps)}; "
        f"the sample is the trial, n of them; metric: {analysis.metric}",
        f"Intervals are paired t on log ratios, each the one its verdict came from: {confidence} or wider, by Holm's "
        f"step over {len(analysis.comparisons)} comparisons; {percent(1 - 2 * analysis.alpha)} for `no effect` (two "
        "one-sided tests)",
        f"An effect within {percent(analysis.margin)} counts as none; alpha is {analysis.alpha:g}",
        *_other_question(analysis),
        *(f"Hardware: {name}" for name in analysis.hardware),
        *(f"Versions: {name}" for name in analysis.versions),
    ]


def _other_question(analysis: Analysis) -> list[str]:
    """Where legs had an accuracy to reach and were judged by something else, how to ask for that."""
    legs = analysis.pairs.legs
    if analysis.metric == "time_to_accuracy" or np.isnan(legs.number["time_to_accuracy"][legs.ok]).all():
        return []
    return ["The legs had an accuracy to reach: metric=time_to_accuracy compares the training seconds up to there"]


def _places(where: list[str]) -> str:
    return "; ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."


def _print_list(console: Console, title: str, items: list[str]) -> None:
    if not items:
        return
    console.print(f"\n[bold]{title}[/bold]")
    for item in items[:MOST_ROWS]:
        console.print(Padding(escape(f"- {item}"), (0, 0, 0, 2)))
    if len(items) > MOST_ROWS:
        console.print(f"  ... and {len(items) - MOST_ROWS} more; --json gives all")
