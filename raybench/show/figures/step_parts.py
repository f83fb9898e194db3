"""The figure of profiled legs: a step of each arm as a stacked bar of its parts."""

from __future__ import annotations

from typing import Final

from raybench.analysis import Analysis
from raybench.ledger.parts import PARTS
from raybench.show.figures.style import COLOURS, after_bar, heading, legend, new_figure, shorten
from raybench.show.plot import Plot
from raybench.show.units import cost

_MOST_BARS: Final = 40
# Parts of one kind have similar colours; hatching distinguishes parts of the same colour.
_LOOKS: Final = {
    "matrix products": ("blue", ""),
    "other operators": ("sky", ""),
    "copies": ("sky", "////"),
    "communication": ("vermillion", ""),
    "data": ("green", ""),
    "forward": ("orange", ""),
    "backward": ("orange", "////"),
    "gradient hooks": ("purple", ""),
    "optimizer": ("olive", ""),
    "engine's step": ("olive", "////"),
    "launching operators": ("purple", "////"),
    "waiting": ("quiet", ""),
    "other": ("quiet", "////"),
}


def parts(analysis: Analysis) -> Plot | None:
    """The time of a step by part, for each profiled leg; in each setting the baseline comes first."""
    found = sorted(analysis.explanations, key=lambda one: (one.setting, one.arm != analysis.baseline, one.arm))
    hidden = len(found) - _MOST_BARS
    found = found[:_MOST_BARS]
    if not found:
        return None
    settings = list(dict.fromkeys(one.setting for one in found))
    figure, (axes,) = new_figure(1.3 + 0.26 * (len(found) + 1.2 * len(settings)))
    base = {one.setting: one.step_seconds for one in reversed(found)}  # the baseline's, if profiled
    ticks: list[tuple[float, str]] = []
    labelled: set[str] = set()
    y, last = -1.0, None
    for one in found:
        if one.setting != last:
            y, last = y + 1.2, one.setting
            heading(axes, y, one.setting)
        y += 1
        left = 0.0
        for name in (*PARTS, *sorted(set(one.parts) - set(PARTS))):
            width = one.parts.get(name, 0.0) / base[one.setting]
            if width <= 0:
                continue
            colour, hatch = _LOOKS.get(name, ("quiet", ".."))
            label = None if name in labelled else name
            labelled.add(name)
            axes.barh(y, width, left=left, height=0.75, color=COLOURS[colour], hatch=hatch, edgecolor="#ffffff",
                      linewidth=0.4, label=label)  # fmt: skip
            left += width
        after_bar(axes, left, y, cost(one.step_seconds, "step"))
        ticks.append((y, shorten(one.arm, 20)))
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.set_ylim(y + 0.7, -0.3)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("step, the baseline's being 1")
    axes.grid(axis="x")
    legend(figure, axes, 3)
    caption = (
        "One profiled leg of each arm, which counts in no speedup. The parts add up to a step without the profiler, "
        "whose cost is taken out by the events that it recorded in each part. On an accelerator, a moment in which it "
        "computes is its own, and a moment in which it is idle belongs to what the host did."
        + (f" The first {_MOST_BARS} legs; {hidden} more in the list below." if hidden > 0 else "")
    )
    return Plot("parts", "What a step is spent on", "why", figure, caption)
