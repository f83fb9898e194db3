"""Figures of what speed costs and what it is made of: memory, the ladder of arms, scaling, performance profiles."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from raybench.analysis import Analysis
from raybench.show.figures.legs import arms_of
from raybench.show.figures.style import COLOURS, VERDICT_STYLE, Plot, arm_style, new_figure, ratio_axis, shorten
from raybench.show.terminal import MIN_SETTINGS
from raybench.show.words import percent


def memory_and_speed(analysis: Analysis) -> Plot | None:
    """Peak memory (across) against speedup (up), one mark a comparison."""
    found = [c for c in analysis.comparisons if c.speedup.value is not None and c.memory.ratio.value is not None]
    if not found or all(abs((c.memory.ratio.value or 1) - 1) < 1e-3 for c in found):
        return None
    figure, (axes,) = new_figure(3.8)
    x = np.array([c.memory.ratio.value for c in found], dtype=float)
    y = np.array([c.speedup.value for c in found], dtype=float)
    ratio_axis(axes, float(x.min()) / 1.05, float(x.max()) * 1.05, name="peak memory, arm over baseline")
    ratio_axis(axes, float(y.min()) / 1.05, float(y.max()) * 1.05, axis="y")
    axes.axhspan(1 / (1 + analysis.margin), 1 + analysis.margin, color=COLOURS["band"], linewidth=0, zorder=0)
    axes.axvline(1.0, color=COLOURS["quiet"], linewidth=0.8)
    arms = arms_of(analysis)
    for arm in dict.fromkeys(c.arm for c in found):
        colour, _ = arm_style(arm, arms, analysis.baseline)
        axes.plot([], [], "s", color=colour, label=shorten(arm, 24))
        for verdict in dict.fromkeys(c.verdict for c in found if c.arm == arm):
            rows = [i for i, c in enumerate(found) if c.arm == arm and c.verdict == verdict]
            face = "none" if verdict in ("undecided", "not comparable") else colour
            axes.plot(x[rows], y[rows], VERDICT_STYLE[verdict][1], color=colour, markerfacecolor=face, markersize=6,
                      alpha=0.85, rasterized=len(found) > 1000)  # fmt: skip
    axes.grid()
    axes.annotate("less memory, faster", (0.01, 0.98), xycoords="axes fraction", va="top", color=COLOURS["quiet"])
    axes.annotate("more memory, slower", (0.99, 0.02), xycoords="axes fraction", ha="right", color=COLOURS["quiet"])
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    kinds = " and ".join(sorted({c.memory.of for c in found if c.memory.of}))
    caption = (
        f"Each mark is one arm in one setting: left of the line it needs less {kinds} memory than the baseline at its"
        " peak, above the grey band it is faster. The shape is the verdict (triangle up helps, down hurts, square no"
        " effect, hollow circle undecided, hollow diamond not comparable). Geometric means over paired trials; memory"
        " is that of the rank that needed most."
    )
    return Plot("memory_and_speed", "Memory against speed", "why", figure, caption)


def ladder(analysis: Analysis) -> Plot | None:
    """A chain of arms as a waterfall: what each rung brought, on a log scale, so that they add up."""
    found = [one for one in analysis.ladders if one.total.value is not None and all(r.ratio.value for r in one.rungs)]
    if not found:
        return None
    one = next((ladder for ladder in found if not ladder.setting), found[0])
    figure, (axes,) = new_figure(1.1 + 0.36 * (len(one.rungs) + 1))
    level, ends = 1.0, [1.0]
    for row, rung in enumerate(one.rungs):
        assert rung.ratio.value is not None
        colour = COLOURS["blue"] if rung.ratio.value >= 1 else COLOURS["vermillion"]
        axes.barh(row, level * rung.ratio.value - level, left=level, height=0.6, color=colour)
        axes.plot([level * rung.ratio.value] * 2, [row - 0.3, row + 1.3], color=COLOURS["quiet"], linewidth=0.8)
        interval = (
            ""
            if rung.ratio.low is None or rung.ratio.high is None
            else f" [{rung.ratio.low:.2f}, {rung.ratio.high:.2f}]"
        )
        _beside(axes, row, f"× {rung.ratio.value:.3f}{interval}")
        level *= rung.ratio.value
        ends.append(level)
    axes.barh(len(one.rungs), level - 1, left=1.0, height=0.6, color=COLOURS["quiet"])
    _beside(axes, len(one.rungs), f"{one.total.value:.3f} in all")
    ratio_axis(axes, min(ends) / 1.05, max(ends) * 1.05, name=f"speedup against {shorten(one.rungs[0].before)}")
    names = [shorten(rung.arm + (f" ({rung.change})" if rung.change else "")) for rung in one.rungs]
    axes.set_yticks(range(len(one.rungs) + 1), [*names, "all together"])
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
    found = [one for one in analysis.scaling if one.efficiency.value is not None]
    lines: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for one in found:
        assert one.efficiency.value is not None
        name = f"{one.model} {one.precision} {one.scaling}" + (f" {one.hardware}" if len(analysis.hardware) > 1 else "")
        low, high = one.efficiency.low or one.efficiency.value, one.efficiency.high or one.efficiency.value
        lines.setdefault((one.arm, name), [(one.base_workers, 1.0, 1.0, 1.0)]).append(
            (one.workers, one.efficiency.value, low, high)
        )
    if not lines or len(lines) > 40:
        return None
    names = list(dict.fromkeys(name for _, name in lines))[:6]
    figure, panels = new_figure(
        0.6 + 2.2 * -(-len(names) // 2), -(-len(names) // 2), min(2, len(names)), sharex=True, sharey=True
    )
    arms = arms_of(analysis)
    for axes, name in zip(panels, names, strict=False):
        for arm, points in ((arm, points) for (arm, of), points in lines.items() if of == name):
            colour, dashes = arm_style(arm, arms, analysis.baseline)
            x, y, bottom, top = (np.array(column) for column in zip(*sorted(points), strict=True))
            reach = [np.maximum(y - bottom, 0), np.maximum(top - y, 0)]
            axes.errorbar(x, y, reach, color=colour, linestyle=dashes, marker="o", markersize=4, capsize=2,
                          label=shorten(arm, 20))  # fmt: skip
        axes.axhline(1.0, color=COLOURS["quiet"], linewidth=0.8)
        axes.set_title(shorten(name), loc="left")
        axes.grid()
        axes.set_xlabel("workers")
        axes.set_ylabel("efficiency")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    panels[0].legend(loc="best")
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
    hardware = list(dict.fromkeys(one.hardware for one in found))[:4]
    if not found:
        return None
    figure, panels = new_figure(0.6 + 2.4 * len(hardware), len(hardware), 1)
    arms = arms_of(analysis)
    for axes, machine in zip(panels, hardware, strict=True):
        mine = [one for one in found if one.hardware == machine]
        for one in mine:
            colour, dashes = arm_style(one.arm, arms, analysis.baseline)
            axes.step(one.within, one.share, where="post", color=colour, linestyle=dashes, linewidth=1.6,
                      label=shorten(one.arm, 24))  # fmt: skip
        full = [
            next((w for w, s in zip(one.within, one.share, strict=True) if s == one.share[-1]), 1.1) for one in mine
        ]
        ratio_axis(axes, 1.0, max(1.2, max(full) * 1.1), name="within this factor of the best arm")
        axes.set_xlim(left=1.0)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("share of settings")
        axes.grid()
        if len(hardware) > 1:
            axes.set_title(shorten(machine, 70), loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    caption = (
        "How often an arm is the best (where its line starts, at 1), and how often it is at most that much slower than"
        " the best (to the right). A line that stays below 1 is an arm that failed in some settings: a failure counts"
        f" as infinitely slow, and nothing is dropped. Factors below {percent(analysis.margin)} are within the margin."
        " After Dolan and Moré 2002; costs are seconds a sample, geometric means over legs."
    )
    return Plot("profile", "How often each arm is the best, or close to it", "found", figure, caption)
