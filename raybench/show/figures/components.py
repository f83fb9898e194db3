"""Figures of a speedup's costs and components: memory, the ladder of arms, scaling, performance profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from raybench.analysis import Analysis
from raybench.analysis.views.scaling import Profile
from raybench.show import units, words
from raybench.show.figures.diagnostics import arms_of
from raybench.show.figures.style import (
    COLOURS,
    arm_style,
    is_hollow,
    legend,
    new_figure,
    ratio_axis,
    shorten,
    two_lines,
)
from raybench.show.plot import Plot
from raybench.show.words import MIN_SETTINGS

_MOST_MARKS: Final = 1000  # drawn as vectors; more become a bitmap, which a page loads faster
_MOST_LINES: Final = 10  # of a profile; more cannot be distinguished


def memory_and_speed(analysis: Analysis) -> Plot | None:
    """Peak memory (across) against speedup (up), one mark a comparison."""
    found = [c for c in analysis.comparisons if c.speedup.value is not None and c.memory.ratio.value is not None]
    if not found or all(abs((c.memory.ratio.value or 1) - 1) < 1e-3 for c in found):
        return None
    names = list(dict.fromkeys(c.arm for c in found))
    figure, (axes,) = new_figure(3.6 + 0.18 * -(-len(names) // 3))
    x = np.array([c.memory.ratio.value for c in found], dtype=float)
    y = np.array([c.speedup.value for c in found], dtype=float)
    ratio_axis(axes, float(x.min()) / 1.05, float(x.max()) * 1.05, name="peak memory, arm over baseline (left: less)")
    ratio_axis(axes, float(y.min()) / 1.05, float(y.max()) * 1.05, axis="y", name="speedup (up: faster)")
    axes.axhspan(1 / (1 + analysis.margin), 1 + analysis.margin, color=COLOURS["band"], linewidth=0, zorder=0)
    axes.axvline(1.0, color=COLOURS["quiet"], linewidth=0.8)
    tips: dict[str, str] = {}
    many = len(found) > _MOST_MARKS
    for arm in names:
        colour, marker, _ = arm_style(arm, arms_of(analysis), analysis.baseline)
        axes.plot([], [], marker, color=colour, linestyle="none", label=shorten(arm, 24))
        if many:  # single marks cannot be distinguished, so each arm's mean stands out
            mine = [row for row, c in enumerate(found) if c.arm == arm]
            axes.plot(x[mine], y[mine], ".", color=COLOURS["quiet"], markersize=3, alpha=0.25, rasterized=True)
            place = f"memory-mean-{names.index(arm)}"
            means = [float(np.exp(np.log(values[mine]).mean())) for values in (x, y)]
            axes.plot(
                means[:1], means[1:], marker, color=colour, markersize=7, markeredgecolor="white", zorder=3, gid=place
            )
            tips[place] = f"{arm}, mean: speedup {units.ratio(means[1])}, memory × {units.ratio(means[0], 2)}"
            continue
        for row, c in enumerate(found):
            if c.arm == arm:
                axes.plot(
                    [x[row]], [y[row]], marker, color=colour, markersize=5.5, alpha=0.9,
                    markerfacecolor="white" if is_hollow(c.verdict) else colour, gid=f"memory-{row}",
                )  # fmt: skip
                tips[f"memory-{row}"] = (
                    f"{c.arm}, {c.where.setting}: speedup {units.ratio(c.speedup.value)}, memory × "
                    f"{units.ratio(c.memory.ratio.value, 2)}, {c.verdict}"
                )
    axes.grid()
    legend(figure, axes, 3)
    each = (
        "Each mark is an arm, its geometric mean over settings, which are the grey dots"
        if many
        else "Each mark is one arm in one setting"
    )
    kinds = " and ".join(sorted({c.memory.of for c in found if c.memory.of}))
    caption = (
        f"{each}: left of the line it needs less {kinds} memory than the baseline at its"
        " peak, above the grey band it is faster, so the upper left is best."
        + ("" if many else f" Hollow marks are undecided or not comparable ({words.multiplicity(analysis)}-corrected).")
        + " Geometric means over paired trials; memory is"
        " that of the rank that needed most."
    )
    return Plot("memory_and_speed", "Memory against speed", "why", figure, caption, tips)


def ladder(analysis: Analysis) -> Plot | None:
    """A chain of arms as a waterfall: each rung's ratio on a log scale, where they add up."""
    found = [one for one in analysis.ladders if one.total.value is not None and all(r.ratio.value for r in one.rungs)]
    if not found:
        return None
    one = next((ladder for ladder in found if not ladder.setting), found[0])
    figure, (axes,) = new_figure(0.9 + 0.36 * (len(one.rungs) + 1))
    level, ends = 1.0, [1.0]
    for row, rung in enumerate(one.rungs):
        gain = rung.ratio.value
        assert gain is not None
        colour = COLOURS["blue"] if gain >= 1 else COLOURS["vermillion"]
        axes.barh(row, level * gain - level, left=level, height=0.6, color=colour)
        axes.plot([level * gain] * 2, [row - 0.3, row + 1.3], color=COLOURS["quiet"], linewidth=0.8)
        _beside(axes, row, f"× {units.estimate(rung.ratio)}")
        level *= gain
        ends.append(level)
    axes.barh(len(one.rungs), level - 1, left=1.0, height=0.6, color=COLOURS["quiet"])
    _beside(axes, len(one.rungs), f"{units.ratio(one.total.value)} in all")
    ratio_axis(axes, min(ends) / 1.05, max(ends) * 1.05, name=f"speedup against {shorten(one.rungs[0].before)}")
    names = [two_lines(rung.arm + (f" ({rung.change})" if rung.change else "")) for rung in one.rungs]
    axes.set_yticks(range(len(one.rungs) + 1), [*names, "all together"], fontsize=8.5)
    axes.set_ylim(len(one.rungs) + 0.6, -0.6)
    axes.axvline(1.0, color=COLOURS["ink"], linewidth=0.8)
    axes.grid(axis="x")
    where = f"In {one.setting}" if one.setting else f"Over {one.n} settings"
    caption = (
        f"{where}, from {one.rungs[0].before} to {one.rungs[-1].arm} rung by rung: each bar starts where the one above"
        " ended, blue to the right is faster. All rungs are taken from the rounds that measured every arm of the chain,"
        " so they multiply to the whole exactly. Intervals are paired t."
    )
    return Plot("ladder", "What each rung brought", "why", figure, caption)


def _beside(axes: Axes, row: float, text: str) -> None:
    axes.annotate(text, (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                  va="center", fontsize=8.5)  # fmt: skip


def scaling(analysis: Analysis) -> Plot | None:
    """Scaling efficiency by the number of workers."""
    lines: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for one in analysis.scaling:
        value = one.efficiency.value
        if value is None:
            continue
        name = f"{one.model} {one.precision} {one.scaling}" + (f" {one.hardware}" if len(analysis.hardware) > 1 else "")
        low, high = one.efficiency.low or value, one.efficiency.high or value
        lines.setdefault((one.arm, name), [(one.base_workers, 1.0, 1.0, 1.0)]).append((one.workers, value, low, high))
    if not lines or len(lines) > 40:
        return None
    names = list(dict.fromkeys(name for _, name in lines))[:6]
    figure, panels = new_figure(
        0.8 + 2.2 * -(-len(names) // 2), -(-len(names) // 2), min(2, len(names)), sharex=True, sharey=True
    )
    arms = arms_of(analysis)
    for axes, name in zip(panels, names, strict=False):
        for arm, points in ((arm, points) for (arm, of), points in lines.items() if of == name):
            colour, marker, dashes = arm_style(arm, arms, analysis.baseline)
            x, y, bottom, top = (np.array(column) for column in zip(*sorted(points), strict=True))
            reach = [np.maximum(y - bottom, 0), np.maximum(top - y, 0)]
            axes.errorbar(x, y, reach, color=colour, linestyle=dashes, marker=marker, markersize=4, capsize=2,
                          label=shorten(arm, 20))  # fmt: skip
        axes.axhline(1.0, color=COLOURS["quiet"], linewidth=0.8)
        axes.set_title(shorten(name, 28), loc="left")
        axes.grid()
        axes.set_xlabel("workers")
        axes.set_ylabel("efficiency")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    legend(figure, panels[0], 3)
    workers = sorted({int(point[0]) for points in lines.values() for point in points})
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_locator(FixedLocator(workers))
    panels[0].xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].set_ylim(bottom=0)
    caption = (
        "Samples a second per worker against the same arm on its fewest workers: 1 is perfect scaling, and what is"
        " missing went to communication. Strong: the global batch stays; weak: each worker's does. Trials of different"
        " settings are not paired, so the intervals are Welch's."
    )
    return Plot("scaling", "Scaling with workers", "why", figure, caption)


def profile(analysis: Analysis) -> Plot | None:
    """Performance profiles: the share of settings in which an arm is within a factor of the best."""
    found = [one for one in analysis.profiles if one.n_settings >= MIN_SETTINGS]
    machines = list(dict.fromkeys(one.hardware for one in found))[:4]
    if not found:
        return None
    most = min(_MOST_LINES, max(len([one for one in found if one.hardware == machine]) for machine in machines))
    figure, panels = new_figure((2.9 + 0.18 * -(-most // 3)) * len(machines), len(machines), 1)
    hidden = 0
    for axes, machine in zip(panels, machines, strict=True):
        mine = sorted((one for one in found if one.hardware == machine), key=_area, reverse=True)
        hidden = max(hidden, len(mine) - _MOST_LINES)
        _profile_lines(axes, mine[:_MOST_LINES], analysis)
        if len(machines) > 1:
            axes.set_title(shorten(machine, 56), loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.2), borderaxespad=0.0, ncols=3, columnspacing=1.2)
    caption = (
        "How often an arm is the best (where its line starts, at 1), and how often it is at most that much slower than"
        " the best (to the right); lines step where a setting is reached. A line that stays below 1 is an arm that"
        " failed in some settings: a failure counts as infinitely slow, and nothing is dropped. Factors below"
        f" {units.percent(analysis.margin)} are within the margin. After Dolan and Moré 2002; costs are seconds a"
        " sample, geometric means over legs."
        + (f" The {_MOST_LINES} arms that are near the best most often; {hidden} more left out." if hidden > 0 else "")
    )
    return Plot("profile", "How often each arm is the best, or close to it", "found", figure, caption)


def _area(one: Profile) -> float:
    """The area under a profile up to a factor of 2, on the log scale: large where an arm is often near the best."""
    factors = np.log(np.clip(np.append(one.within, 2.0), 1.0, 2.0))
    return float(np.sum(np.diff(factors) * np.array(one.share)))


def _profile_lines(axes: Axes, lines: Sequence[Profile], analysis: Analysis) -> None:
    last = [next((w for w, s in zip(one.within, one.share, strict=True) if s == one.share[-1]), 1.1) for one in lines]
    high = max(1.2, float(np.quantile(last, 0.9)) * 1.1)
    ratio_axis(axes, 1.0, high, name="within this factor of the best arm")
    axes.set_xlim(1.0, high)
    for one in lines:
        colour, marker, dashes = arm_style(one.arm, arms_of(analysis), analysis.baseline)
        x = [factor for factor in one.within if factor <= high]
        y = list(one.share[: len(x)])
        first = 0 if y[0] else 1  # no mark where an arm is never the best
        look: dict[str, Any] = {"markersize": 4.5, "markevery": (first, max(1, len(x) // 6)), "clip_on": False}
        axes.step([*x, high], [*y, y[-1]], where="post", color=colour, linestyle=dashes, linewidth=1.4, marker=marker,
                  label=shorten(one.arm, 24), **look)  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("share of settings")
    axes.grid()
