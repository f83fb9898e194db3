"""Figures of speedups: the arms over all settings, the forest, the heat map, and the distribution of speedups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.patches import Rectangle

from raybench.analysis import Analysis, Comparison
from raybench.show import units, words
from raybench.show.figures.style import (
    COLOURS,
    VERDICT_STYLE,
    WIDEST,
    arm_style,
    heading,
    is_hollow,
    legend,
    new_figure,
    ratio_axis,
    shorten,
    two_lines,
)
from raybench.show.plot import WIDTH, Plot
from raybench.statistics.estimate import Estimate

MOST_ROWS: Final = 60  # with a name for each
_HIGHEST: Final = 11.0  # inches of a figure without names
_LIGHT: Final = "#fffffe"  # on a dark cell, in both themes; not the page's white, which changes with the theme


def arms(analysis: Analysis) -> Plot | None:
    """Each arm over all its settings: its mean with the intervals for these settings, and every setting's speedup."""
    answers = [one for one in words.arm_answers(analysis) if one.interval.value is not None]
    if not answers or not any(one.summary.n_compared > 1 for one in answers):
        return None
    figure, (axes,) = new_figure(0.75 + 0.3 * len(answers), width=6.4)
    points = {
        (one.summary.arm, one.summary.hardware): [
            value
            for c in analysis.comparisons
            if (c.arm, c.where.hardware) == (one.summary.arm, one.summary.hardware)
            and (value := c.speedup.value) is not None
        ]
        for one in answers
    }
    _ratio_limits(axes, [one.interval for one in answers], [value for several in points.values() for value in several])
    _margin_band(axes, analysis.margin)
    tips = {}
    for y, one in enumerate(answers):
        values = points[one.summary.arm, one.summary.hardware]
        axes.plot(values, [y] * len(values), "|", color=COLOURS["quiet"], markersize=9, alpha=0.5, zorder=1)
        _estimate(axes, y, one.summary.fixed, one.interval, one.verdict, f"arm-{y}")
        tips[f"arm-{y}"] = f"{one.summary.arm} {one.text}"
        _right(axes, y, f"{units.ratio(one.interval.value)}  {one.verdict}")
    _rows(axes, [one.summary.arm for one in answers])
    _finish(axes, analysis)
    caption = (
        "Each arm over all its settings: the mark is the geometric mean, the thick line its plain interval for these"
        f" settings, the thin one that of the verdict ({words.multiplicity(analysis)}-corrected); faint strokes are the"
        f" settings. The band is the margin of {units.percent(analysis.margin)}."
    )
    return Plot("arms", "Every arm over all settings", "summary", figure, caption, tips)


def forest(analysis: Analysis) -> Plot | None:
    """Every comparison's speedup: sorted for one arm, by setting for several.

    None where the heat map shows it better, or nothing was measured.
    """
    names = list(dict.fromkeys(c.arm for c in analysis.comparisons))
    if not any(c.speedup.value is not None for c in analysis.comparisons):
        return None
    if len(analysis.comparisons) > MOST_ROWS and 1 < len(names) <= MOST_ARMS:
        return None
    rows = _sorted_rows(analysis) if len(names) == 1 else _grouped_rows(analysis)
    named = len(rows) <= 2 * MOST_ROWS
    height = 0.75 + (0.2 * len(rows) if named else min(_HIGHEST, 0.06 * len(rows)))
    figure, (axes,) = new_figure(height)
    shown = [c for _, c in rows if c is not None]
    _ratio_limits(
        axes,
        [c.judgement.interval for c in shown],
        [c.speedup.value for c in shown if c.speedup.value is not None],
    )
    _margin_band(axes, analysis.margin)
    tips = {}
    for y, (_, c) in enumerate(rows):
        if c is None:
            continue
        if c.speedup.value is not None:
            _estimate(axes, y, c.speedup, c.judgement.interval, c.verdict, f"row-{y}", small=not named)
            tips[f"row-{y}"] = _told(c)
        if named:
            number = f"{units.ratio(c.speedup.value)}  " if c.speedup.value is not None else ""
            _right(axes, y, f"{number}{c.verdict}")
    _rows(axes, [c.arm if c is not None and len(names) > 1 else "" for _, c in rows], named=named)
    for y, (text, c) in enumerate(rows if named else ()):
        if c is None:
            heading(axes, y, text)
    _finish(axes, analysis)
    caption = (
        "Each mark is one arm in one setting. Right of the grey band, which is the margin of"
        f" {units.percent(analysis.margin)}, the arm is faster; left of it slower. The thick line is the plain"
        f" {units.percent(1 - analysis.alpha)} interval (paired t over trials, on log ratios), the thin one that of the"
        f" verdict, {words.multiplicity(analysis)}-corrected over all comparisons. A thin line beyond the band is an"
        " effect, one inside it shows that there is none, and one that crosses an edge of it decides nothing (hollow,"
        " grey). Arrows mark intervals that go on." + ("" if named else " Sorted by speedup; the table has the names.")
    )
    return Plot("forest", "Speedup of every arm in every setting", "answer", figure, caption, tips)


def _sorted_rows(analysis: Analysis) -> list[tuple[str, Comparison | None]]:
    """A row with a setting's name, then its comparison, fastest first; those without a speedup last."""
    found = sorted(analysis.comparisons, key=lambda c: -(c.speedup.value or 0.0))
    if len(found) > MOST_ROWS:
        return [("", c) for c in found]
    return [row for c in found for row in ((words.setting_of(c, analysis), None), ("", c))]


def _grouped_rows(analysis: Analysis) -> list[tuple[str, Comparison | None]]:
    """A row with each setting's name, then one row for each of its arms."""
    ordered = sorted(analysis.comparisons, key=lambda c: (c.where.family, c.where.hardware))
    rows: list[tuple[str, Comparison | None]] = []
    for (name, _), members in groupby(ordered, key=lambda c: (words.setting_of(c, analysis), c.where.setting_id)):
        rows.append((name, None))
        rows += [(c.arm, c) for c in members]
    return rows


def _told(c: Comparison) -> str:
    parts = [f"{c.arm}, {c.where.setting}: {c.verdict}"]
    if c.speedup.value is not None:
        parts.append(f"speedup {units.ratio(c.speedup.value)}")
        if plain := units.interval(c.speedup):
            parts.append(f"plain {plain}")
        if claim := units.interval(c.judgement.interval):
            parts.append(f"corrected {claim}")
    return ", ".join([*parts, f"n = {c.n_trials}"])


def _ratio_limits(axes: Axes, intervals: Sequence[Estimate], values: Sequence[float]) -> None:
    """A log axis for these; a very wide interval may exceed the others only by a factor of 1.6, not squeeze them."""
    ends = [*values, *(end for one in intervals for end in (one.low, one.high) if end is not None)]
    low, high = max(min(ends), min(values) / 1.6) / 1.04, min(max(ends), max(values) * 1.6) * 1.04
    ratio_axis(axes, low, high)


def _finish(axes: Axes, analysis: Analysis) -> None:
    axes.set_xlabel(f"speedup against {shorten(analysis.baseline)}: above 1 the arm is faster")
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=8)


def _rows(axes: Axes, names: Sequence[str], named: bool = True) -> None:
    axes.set_ylim(len(names) - 0.4, -0.5)
    axes.set_yticks(range(len(names)) if named else [], [shorten(name, 20) for name in names] if named else [])


def _margin_band(axes: Axes, margin: float, axis: str = "x") -> None:
    span, line = (axes.axvspan, axes.axvline) if axis == "x" else (axes.axhspan, axes.axhline)
    span(1 / (1 + margin), 1 + margin, color=COLOURS["band"], zorder=0, linewidth=0)
    line(1.0, color=COLOURS["quiet"], linewidth=0.8, zorder=1)


def _estimate(
    axes: Axes, y: float, plain: Estimate, claim: Estimate, verdict: str, gid: str, *, small: bool = False
) -> None:
    """A mark with its plain interval (thick) and the verdict's interval (thin)."""
    name, marker = VERDICT_STYLE[verdict]
    colour = COLOURS[name]
    for one, width in ((claim, 1.0), (plain, 1.6 if small else 3.4)):
        if one.low is not None and one.high is not None:
            _whisker(axes, y, one.low, one.high, colour, width)
    value = claim.value if claim.value is not None else plain.value
    assert value is not None
    axes.plot(
        [value], [y], marker, color=colour, markerfacecolor="white" if is_hollow(verdict) else colour,
        markersize=3 if small else 6, zorder=3, gid=gid,
    )  # fmt: skip


def _right(axes: Axes, y: float, text: str) -> None:
    axes.annotate(
        text, (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
        va="center", ha="left", fontsize=8.5,
    )  # fmt: skip


def _whisker(axes: Axes, y: float, low: float, high: float, colour: str, width: float) -> None:
    left, right = axes.get_xlim()
    axes.plot(
        [max(low, left), min(high, right)], [y, y], color=colour, linewidth=width, solid_capstyle="butt", zorder=2
    )
    for beyond, end, marker in ((low < left, left, "<"), (high > right, right, ">")):
        if beyond:
            axes.plot([end], [y], marker, color=colour, markersize=5, clip_on=False, zorder=3)


MOST_ARMS: Final = 40  # in the heat map
MAP_COLOURS: Final = LinearSegmentedColormap.from_list("speedup", ["#b34700", "#f7f7f7", "#00599c"])


def ink_on(face: Sequence[float]) -> str:
    """Black or white, whichever has more contrast with a cell (WCAG 2: at least 4.5:1 with one of them)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in face[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _LIGHT if luminance < 0.179 else "black"


def heat_map(analysis: Analysis) -> Plot | None:
    """The speedup of every arm (across) in every setting (down)."""
    names = list(dict.fromkeys(c.arm for c in analysis.comparisons))
    ordered = sorted(analysis.comparisons, key=lambda c: (c.where.family, c.where.hardware))
    rows = [
        (key[1], key[2], {c.arm: c for c in members})
        for key, members in groupby(
            ordered, key=lambda c: (c.where.setting_id, words.setting_of(c, analysis), c.where.family)
        )
    ]
    if len(rows) < 2 or not 2 <= len(names) <= MOST_ARMS:
        return None
    named = len(rows) <= MOST_ROWS
    values = np.array([[_speedup(members.get(arm)) for arm in names] for _, _, members in rows])
    logs = np.abs(np.log(values[np.isfinite(values)]))
    reach = max(float(np.quantile(logs, 0.98)) if len(logs) else 0.0, float(np.log(1.1)))
    norm = Normalize(-reach, reach)
    width = min(WIDEST, max(WIDTH, 1.9 + 0.31 * len(names)))
    heads = [shorten(arm, 18) for arm in names]
    upright = len(names) > 6
    above = 0.3 + 0.08 * max(map(len, heads)) if upright else 0.9
    figure, (axes,) = new_figure(above + (0.34 * len(rows) if named else min(_HIGHEST, 0.07 * len(rows))), width=width)
    faces = np.where(np.isfinite(values)[..., None], MAP_COLOURS(norm(np.log(values))), to_rgba("#c9ced4"))
    tips = {}
    if not named:
        axes.pcolorfast((-0.5, len(names) - 0.5), (-0.5, len(rows) - 0.5), faces)
    for row, (_, _, members) in enumerate(rows if named else ()):
        for column, arm in enumerate(names):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=faces[row, column], edgecolor="white",
                                     linewidth=1.0, gid=f"cell-{row}-{column}"))  # fmt: skip
            if arm in members:
                tips[f"cell-{row}-{column}"] = _told(members[arm])
                _cell_text(axes, column, row, members[arm], len(names), ink_on(faces[row, column]))
    axes.set_xticks(range(len(names)), heads, rotation=90 if upright else 0)
    axes.xaxis.tick_top()
    if named:
        beside = _told_apart([name for name, _, _ in rows])
        axes.set_yticks(range(len(rows)), [two_lines(name) for name in beside], fontsize=8.5)
    else:
        _families(axes, [family for _, family, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    caption = (
        f"The speedup of every arm against {analysis.baseline}: blue is faster, orange slower, equally strong for equal"
        f" factors and strongest from {units.about(float(np.exp(reach)))} times on; grey was not measured."
        + (
            f" + and − are verdicts (helps, hurts), = is no effect within {units.percent(analysis.margin)}, ?"
            f" undecided, ≠ not comparable{_letters(analysis, len(names))}. Verdicts are"
            f" {words.multiplicity(analysis)}-corrected over all comparisons."
            if named
            else " Settings stand by family; the table has their names and the verdicts."
        )
    )
    return Plot("heat_map", "Settings and arms at a glance", "answer", figure, caption, tips)


def _cell_text(axes: Axes, column: int, row: int, c: Comparison, num_arms: int, ink: str) -> None:
    """A cell's text: speedup and sign; only the sign in narrow cells."""
    sign = _SIGNS.get(c.verdict, "")
    if c.speedup.value is None:
        text = c.verdict if num_arms <= 5 else _SHORT.get(c.verdict, "x")
    else:
        gap = " " if num_arms <= 4 else "\n"
        text = sign if num_arms > 16 else f"{c.speedup.value:.2f}{gap}{sign}".strip()
    axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=ink)


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names; long ones without their common parts, so that the differences are not cut off."""
    if max(map(len, names)) <= 44:
        return list(names)
    split = [name.split(", ") for name in names]
    shared = set.intersection(*map(set, split))
    heads = set.intersection(*(set(parts[0].split()) for parts in split))

    def apart(parts: Sequence[str]) -> str:
        head = " ".join(word for word in parts[0].split() if word not in heads)
        return ", ".join(filter(None, [head, *(part for part in parts[1:] if part not in shared)]))

    return [apart(parts) or name for parts, name in zip(split, names, strict=True)]


def _families(axes: Axes, families: Sequence[str]) -> None:
    """The families' names at the middle of their rows, and a line between families."""
    ticks: list[tuple[float, str]] = []
    start = 0
    for name, members in groupby(families):
        count = len(list(members))
        ticks.append((start + (count - 1) / 2, shorten(f"{name or 'no family'}: {count}", 26)))
        start += count
        if start < len(families):
            axes.axhline(start - 0.5, color=COLOURS["ink"], linewidth=0.8)
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])


def _letters(analysis: Analysis, num_arms: int) -> str:
    """The meaning of the letters in narrow cells, for those that occur."""
    present = {c.verdict for c in analysis.comparisons if c.speedup.value is None} if num_arms > 5 else ()
    return "".join(f", {letter} {verdict}" for verdict, letter in _SHORT.items() if verdict in present)


_SIGNS: Final = {"helps": "+", "hurts": "−", "no effect": "=", "undecided": "?", "not comparable": "≠"}
_SHORT: Final = {"unlocks": "U", "blocked": "B", "failed": "F", "both failed": "FF"}


def _speedup(c: Comparison | None) -> float:
    return np.nan if c is None or c.speedup.value is None else c.speedup.value


def distribution(analysis: Analysis) -> Plot | None:
    """Each arm's speedups over the settings as a row of dots with its quartiles, and the share of each verdict."""
    summaries = [arm for arm in analysis.arms if arm.n_settings]
    if max((arm.n_compared for arm in summaries), default=0) < words.MIN_SETTINGS:
        return None
    several = len(analysis.hardware) > 1
    figure, (left, right) = new_figure(1.1 + 0.34 * len(summaries), 1, 2, width_ratios=[3, 1.3], sharey=True)
    everything = [c.speedup.value for c in analysis.comparisons if c.speedup.value is not None]
    ratio_axis(left, min(everything) / 1.03, max(everything) * 1.03)
    _margin_band(left, analysis.margin)
    present: dict[str, str] = {}
    for y, arm in enumerate(summaries):
        members = [
            c
            for c in analysis.comparisons
            if (c.arm, c.where.hardware) == (arm.arm, arm.hardware)
            and c.speedup.value is not None
            and c.verdict != "not comparable"
        ]
        colour, marker, _ = arm_style(arm.arm, [one.arm for one in analysis.arms], analysis.baseline)
        values = sorted(c.speedup.value or 1.0 for c in members)
        jitter = 0.22 * (np.arange(len(values)) % 3 - 1)
        if arm.quartiles.low is not None and arm.quartiles.high is not None:
            left.plot([arm.quartiles.low, arm.quartiles.high], [y, y], color=COLOURS["ink"], linewidth=5, alpha=0.25)
        if arm.quartiles.value is not None:
            left.plot([arm.quartiles.value] * 2, [y - 0.3, y + 0.3], color=COLOURS["ink"], linewidth=1.4)
        left.plot(values, y + jitter, marker, color=colour, markersize=4, alpha=0.7, markeredgewidth=0,
                  rasterized=len(everything) > 3000)  # fmt: skip
        at = 0.0
        for verdict in words.MEANINGS:
            share = getattr(arm.tally, verdict.replace(" ", "_"), 0) / arm.n_settings
            if share:
                name, _ = VERDICT_STYLE[verdict]
                face, edge = ("white", COLOURS[name]) if is_hollow(verdict) else (COLOURS[name], "white")
                right.barh(y, share, left=at, height=0.62, color=face, edgecolor=edge, linewidth=1.0,
                           hatch=_HATCHES.get(verdict, ""),
                           label=verdict if verdict not in present else None)  # fmt: skip
                present[verdict] = name
                at += share
    names = [f"{arm.arm} ({arm.hardware})" if several else arm.arm for arm in summaries]
    left.set_yticks(range(len(names)), [shorten(name, 20) for name in names])
    left.set_ylim(len(names) - 0.4, -0.6)
    left.grid(axis="x")
    left.tick_params(axis="y", length=0)
    right.tick_params(axis="y", length=0, labelleft=False)
    right.set_xlim(0, 1)
    right.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    right.set_xticks([0, 1])
    first, last = right.get_xticklabels()
    first.set_horizontalalignment("left")  # within their axes: not beside the last tick of the other ones
    last.set_horizontalalignment("right")
    right.set_xlabel("share of settings")
    legend(figure, right, 4, "outside upper right")
    caption = (
        "Left: each dot is a setting's speedup, the bar the middle half of them, the stroke their median; the band is"
        f" the margin of {units.percent(analysis.margin)}. Settings without a speedup have no dot. Right: how many of"
        f" all settings, failed ones included, have which verdict ({words.multiplicity(analysis)}-corrected)."
    )
    return Plot("distribution", "Speedups over all settings", "found", figure, caption)


_HATCHES: Final = {"hurts": "////", "blocked": "xx", "failed": "..", "both failed": "++"}
