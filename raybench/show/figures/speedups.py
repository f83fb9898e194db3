"""Figures of speedups: the forest plot, their distribution, and the heat map of settings and arms."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize

from raybench.analysis import Analysis, ArmSummary, Comparison
from raybench.analysis.results import VERDICTS
from raybench.show.figures.style import COLOURS, VERDICT_STYLE, Plot, arm_style, new_figure, ratio_axis, shorten
from raybench.show.terminal import MIN_SETTINGS
from raybench.show.words import percent

MOST_ROWS = 60


def label(c: Comparison, analysis: Analysis) -> str:
    """A comparison's setting, with its hardware where there are several."""
    return (
        f"{c.where.setting} ({c.where.hardware or 'hardware not named'})"
        if len(analysis.hardware) > 1
        else c.where.setting
    )


def chosen_rows(analysis: Analysis) -> tuple[list[Comparison], str]:
    """Comparisons that fit a figure, by family and setting, and a sentence where some are left out."""
    found = list(analysis.comparisons)
    note = ""
    if len(found) > MOST_ROWS:
        found.sort(key=lambda c: (c.speedup.value is None, c.speedup.value or 0.0))
        measured = [c for c in found if c.speedup.value is not None]
        found = (measured[: MOST_ROWS // 2] + measured[MOST_ROWS // 2 :][-MOST_ROWS // 2 :]) or found[:MOST_ROWS]
        note = f" Of {len(analysis.comparisons)} comparisons the {len(found)} with the lowest and highest speedups."
    order = {id(c): place for place, c in enumerate(analysis.comparisons)}
    return sorted(
        found, key=lambda c: (c.where.family, c.where.hardware, c.where.setting, c.where.setting_id, order[id(c)])
    ), note


def forest(analysis: Analysis) -> Plot | None:
    """Every comparison's speedup with the interval that its verdict came from, grouped by family."""
    if not any(c.speedup.value is not None for c in analysis.comparisons):
        return None
    rows, note = chosen_rows(analysis)
    pooled = [arm for arm in analysis.arms if arm.n_compared >= MIN_SETTINGS]
    blocks = [
        (key, list(members))
        for key, members in groupby(rows, key=lambda c: (c.where.family, label(c, analysis), c.where.setting_id))
    ]
    families = len({key[0] for key, _ in blocks})
    lines = len(rows) + len(blocks) + families + (len(pooled) + 1.5 if pooled else 0)
    figure, (axes,) = new_figure(0.75 + 0.2 * lines)
    low, high = _limits(rows, pooled)
    ratio_axis(axes, low, high, name=f"speedup against {shorten(analysis.baseline)}: above 1 the arm is faster")
    _margin_band(axes, analysis.margin)
    y = 0.0
    ticks: list[tuple[float, str]] = []
    for family, group in groupby(blocks, key=lambda block: block[0][0]):
        _left(axes, y, shorten(family) or "no family named", bold=True)
        y += 1
        for (_, name, _), members in group:
            _left(axes, y, shorten(name), indent=1)
            y += 1
            for c in members:
                _forest_row(axes, y, c)
                ticks.append((y, shorten(c.arm, 24)))
                y += 1
    if pooled:
        y += 0.5
        _left(axes, y, "settings like these (mean)", bold=True)
        for arm in pooled:
            y += 1
            _pooled_row(axes, y, arm)
            ticks.append((y, shorten(arm.arm, 24)))
        y += 1
    axes.set_ylim(y - 0.2, -0.8)
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    caption = (
        "Each mark is one arm in one setting. Right of the grey band, which is the margin of"
        f" {percent(analysis.margin)}, the arm is faster; left of it slower. The line is the interval that the verdict"
        " came from: a paired t interval over trials on log ratios, Holm-corrected where the verdict is helps or hurts."
        " A line beyond the band is an effect, one inside it shows that there is none, and one that crosses an edge of"
        " it decides nothing. Arrows mark intervals that go on."
        + (
            " Below, each arm's geometric mean over its settings with the interval for a population of settings like"
            " these (thick) and for one more such setting (thin)."
            if pooled
            else ""
        )
        + note
    )
    return Plot("forest", "Speedup of every arm in every setting", "found", figure, caption)


def _limits(rows: list[Comparison], pooled: list[ArmSummary]) -> tuple[float, float]:
    points = [c.speedup.value for c in rows if c.speedup.value is not None]
    points += [arm.population.value for arm in pooled if arm.population.value is not None]
    ends = points + [
        end for c in rows for end in (c.judgement.interval.low, c.judgement.interval.high) if end is not None
    ]
    # A wild interval must not squeeze the others: it may reach a factor 1.6 beyond the outermost points.
    return max(min(ends), min(points) / 1.6) / 1.04, min(max(ends), max(points) * 1.6) * 1.04


def _margin_band(axes: Axes, margin: float, axis: str = "x") -> None:
    span, line = (axes.axvspan, axes.axvline) if axis == "x" else (axes.axhspan, axes.axhline)
    span(1 / (1 + margin), 1 + margin, color=COLOURS["band"], zorder=0, linewidth=0)
    line(1.0, color=COLOURS["quiet"], linewidth=0.8, zorder=1)


def _left(axes: Axes, y: float, text: str, *, bold: bool = False, indent: int = 0) -> None:
    axes.annotate(
        text, (0, y), xycoords=("axes fraction", "data"), xytext=(-150 + 8 * indent, 0), textcoords="offset points",
        va="center", ha="left", fontweight="bold" if bold else "normal",
        color=COLOURS["quiet"] if indent else COLOURS["ink"],
    )  # fmt: skip


def _forest_row(axes: Axes, y: float, c: Comparison) -> None:
    name, marker = VERDICT_STYLE[c.verdict]
    colour = COLOURS[name]
    text: str = c.verdict
    if c.speedup.value is not None:
        if c.judgement.interval.low is not None and c.judgement.interval.high is not None:
            _whisker(axes, y, c.judgement.interval.low, c.judgement.interval.high, colour, 1.6)
        face = "none" if c.verdict in ("undecided", "not comparable") else colour
        axes.plot([c.speedup.value], [y], marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
        text = f"{c.speedup.value:.3f}  {c.verdict}, n = {c.n_trials}"
    _right(axes, y, text)


def _pooled_row(axes: Axes, y: float, arm: ArmSummary) -> None:
    if arm.prediction.low is not None and arm.prediction.high is not None:
        _whisker(axes, y, arm.prediction.low, arm.prediction.high, COLOURS["quiet"], 1.0)
    if arm.population.low is not None and arm.population.high is not None:
        _whisker(axes, y, arm.population.low, arm.population.high, COLOURS["ink"], 3.2)
    assert arm.population.value is not None
    axes.plot([arm.population.value], [y], "D", color=COLOURS["ink"], markersize=6, zorder=3)
    _right(axes, y, f"{arm.population.value:.3f}  {arm.n_compared} settings")


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


def distribution(analysis: Analysis) -> Plot | None:
    """The ECDF of each arm's speedups over the settings, and the share of each verdict."""
    if max((arm.n_compared for arm in analysis.arms), default=0) < MIN_SETTINGS:
        return None
    names = list(dict.fromkeys(arm.arm for arm in analysis.arms))
    several = len(analysis.hardware) > 1
    height = 0.28 * len(analysis.arms) + 0.55
    figure, (top, bottom) = new_figure(2.9 + height, 2, 1, height_ratios=[2.9, height])
    _ecdf(top, analysis, names)
    for row, arm in enumerate(analysis.arms):
        left = 0.0
        for verdict in VERDICTS:
            share = arm.tally[verdict] / arm.n_settings
            if not share:
                continue
            colour = COLOURS[VERDICT_STYLE[verdict][0]]
            bottom.barh(row, share, left=left, color=colour, height=0.7, edgecolor="white", linewidth=0.8)
            if share > 0.13:
                text = f"{arm.tally[verdict]} {verdict}"
                bottom.text(left + share / 2, row, text, ha="center", va="center", color="white", fontsize=8)
            left += share
    labels = [shorten(f"{arm.arm} ({arm.hardware})" if several else arm.arm, 30) for arm in analysis.arms]
    bottom.set_yticks(range(len(analysis.arms)), labels)
    bottom.set_ylim(len(analysis.arms) - 0.5, -0.5)
    bottom.set_xlim(0, 1)
    bottom.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    bottom.set_xlabel("share of the settings with each verdict")
    caption = (
        "Above: the share of settings (upwards) whose speedup is at most that much (to the right); a curve that lies"
        " farther right is a faster arm, a steep one is much alike everywhere, and what lies in the grey band is within"
        f" the margin of {percent(analysis.margin)}. Settings without a speedup are not in the curve. Below: how many"
        " of all settings, failed ones included, have which verdict."
    )
    return Plot("distribution", "Speedups over all settings", "found", figure, caption)


def _ecdf(axes: Axes, analysis: Analysis, names: list[str]) -> None:
    groups: dict[tuple[str, str], list[float]] = {}
    for c in analysis.comparisons:
        if c.speedup.value is not None and c.verdict != "not comparable":
            groups.setdefault((c.arm, c.where.hardware), []).append(c.speedup.value)
    everything = np.array([value for values in groups.values() for value in values])
    ratio_axis(axes, float(everything.min()) / 1.03, float(everything.max()) * 1.03)
    _margin_band(axes, analysis.margin)
    for (arm, hardware), values in groups.items():
        colour, dashes = arm_style(arm, names, analysis.baseline)
        x = np.sort(np.array(values))
        y = np.arange(1, len(x) + 1) / len(x)
        if len(x) > 500:
            keep = np.unique(np.linspace(0, len(x) - 1, 500).astype(int))
            x, y = x[keep], y[keep]
        name = f"{arm} ({hardware})" if len(analysis.hardware) > 1 else arm
        axes.step(
            [x[0], *x], [0.0, *y], where="post", color=colour, linestyle=dashes, linewidth=1.6, label=shorten(name, 30)
        )
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share of settings")
    axes.grid()
    if len(groups) <= 12:
        axes.legend(loc="best")


def heat_map(analysis: Analysis) -> Plot | None:
    """The speedup of every arm (across) in every setting (down)."""
    arms = list(dict.fromkeys(c.arm for c in analysis.comparisons))
    rows = [
        (name, {c.arm: c for c in members})
        for name, members in (
            (key[1], list(group))
            for key, group in groupby(
                sorted(
                    analysis.comparisons,
                    key=lambda c: (c.where.family, c.where.global_batch or 0, label(c, analysis), c.where.setting_id),
                ),
                key=lambda c: (c.where.setting_id, label(c, analysis)),
            )
        )
    ]
    if len(rows) < 2 or len(arms) < 2 or len(arms) > 16:
        return None
    left_out = len(rows) - MOST_ROWS
    rows = rows[:MOST_ROWS]
    speedups = np.array([[_speedup(members.get(arm)) for arm in arms] for _, members in rows])
    reach = max(float(np.nanmax(np.abs(np.log(speedups)), initial=0.0)), float(np.log(1.1)))
    colours = LinearSegmentedColormap.from_list("speedup", [COLOURS["vermillion"], "#f7f7f7", COLOURS["blue"]])
    norm = Normalize(-reach, reach)
    figure, (axes,) = new_figure(0.8 + 0.26 * len(rows))
    for row, (_, members) in enumerate(rows):
        for column, arm in enumerate(arms):
            c = members.get(arm)
            value = speedups[row, column]
            face = colours(norm(np.log(value))) if np.isfinite(value) else "#c9ced4"
            axes.barh(row, 1, left=column - 0.5, height=1, color=face, edgecolor="white", linewidth=1.5)
            if c is None:
                continue
            text = f"{value:.2f} {_SIGNS.get(c.verdict, '')}".strip() if np.isfinite(value) else c.verdict
            dark = np.isfinite(value) and abs(np.log(value)) > 0.75 * reach
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(arms)), [shorten(arm, 18) for arm in arms], rotation=30 if len(arms) > 6 else 0)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [shorten(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.5, len(arms) - 0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    caption = (
        f"The speedup of every arm against {analysis.baseline}: blue is faster, orange slower, equally strong for equal"
        " factors, grey was not measured. A plus or minus is a verdict (helps, hurts), = is no effect within"
        f" {percent(analysis.margin)}, ? undecided, ≠ not comparable."
        + (f" {left_out} more settings are in comparisons.csv." if left_out > 0 else "")
    )
    return Plot("heat_map", "Settings and arms at a glance", "found", figure, caption)


_SIGNS = {"helps": "+", "hurts": "−", "no effect": "=", "undecided": "?", "not comparable": "≠"}


def _speedup(c: Comparison | None) -> float:
    return np.nan if c is None or c.speedup.value is None else c.speedup.value
