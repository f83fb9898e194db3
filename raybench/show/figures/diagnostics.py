"""Figures of legs: example step times, seconds by phase, order and drift, and failures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from raybench.analysis import Analysis
from raybench.analysis.checks import INPUT_BOUND_SHARE
from raybench.analysis.pairs import mean_by
from raybench.show.figures.series import PHASES, Steps
from raybench.show.figures.style import COLOURS, after_bar, arm_style, heading, legend, new_figure, shorten
from raybench.show.plot import Plot
from raybench.show.units import cost, count, percent

_MOST_POINTS = 1000
_MOST_ARMS = 6
_MOST_PHASES = 48  # rows
_PHASE_COLOURS = {"data": "orange", "forward": "sky", "backward": "blue", "optimizer": "green", "the rest": "quiet"}


def arms_of(analysis: Analysis) -> list[str]:
    """The baseline, then the other arms in the analysis's order."""
    return [analysis.baseline, *dict.fromkeys(c.arm for c in analysis.comparisons)]


def traces(analysis: Analysis, steps: Steps) -> Plot | None:
    """Every step of one leg per arm, with the boundary between warm-up and measurement."""
    legs = steps.traces[:_MOST_ARMS]
    if not legs:
        return None
    figure, panels = new_figure(0.6 + 1.15 * len(legs), len(legs), 1, sharex=True, sharey=True)
    thinned = False
    for axes, leg in zip(panels, legs, strict=True):
        colour, _, _ = arm_style(leg.arm, arms_of(analysis), analysis.baseline)
        every = -(-len(leg.step_seconds) // _MOST_POINTS)
        thinned |= every > 1
        x, y = _thin(leg.step_seconds * 1e3, every)
        axes.axvspan(-0.5, leg.warmup_steps - 0.5, color=COLOURS["band"], linewidth=0, zorder=0)
        axes.axvline(leg.warmup_steps - 0.5, color=COLOURS["quiet"], linewidth=0.8, linestyle="--")
        axes.plot(x, y, color=colour, linewidth=1.1)
        if leg.data_seconds is not None:
            x, waits = _thin(leg.data_seconds * 1e3, every)
            axes.fill_between(x, 0, waits, color=COLOURS["orange"], linewidth=0, alpha=0.8)
        mean = float(leg.step_seconds[leg.warmup_steps :].mean())
        axes.hlines(
            mean * 1e3, leg.warmup_steps - 0.5, len(leg.step_seconds) - 0.5, color=COLOURS["ink"], linewidth=0.8
        )
        axes.set_title(f"{shorten(leg.arm, 28)}: measured mean {cost(mean, 'step')} a step", loc="left")
        axes.grid(axis="y")
        axes.set_ylabel("ms")
    tops = np.concatenate([leg.step_seconds[leg.warmup_steps :] for leg in legs]) * 1e3
    highest = 1e3 * max(float(leg.step_seconds.max()) for leg in legs)
    panels[0].set_ylim(0, 1.05 * max(float(tops.max()), min(highest, 2.5 * float(np.quantile(tops, 0.95)))))
    panels[0].set_xlim(-0.5, max(len(leg.step_seconds) for leg in legs) - 0.5)
    panels[-1].set_xlabel("step")
    left = len(steps.traces) - len(legs)
    whose = f"One leg of each of {len(legs)} arms ({left} more not drawn)" if left else "One leg of each arm"
    caption = (
        f"{whose}, all of one trial of {legs[0].setting}, as an example. The shaded steps left of the"
        " dashed line are warm-up and are not measured; the horizontal line is the mean of the measured ones, which is"
        " what the speedup rests on. Look for steps that still fall or rise right of the cut. Orange, where there is"
        " any, is the wait for data. A step's time is the slowest rank's; the vertical scale is shared, and slow"
        " steps of the warm-up may leave it." + (" Each point is the mean of several steps." if thinned else "")
    )
    return Plot("traces", "Step by step through a leg", "sure", figure, caption)


def _thin(values: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Step numbers and values, averaged over every `every` steps."""
    groups = np.arange(len(values)) // every
    means = np.bincount(groups, values) / np.bincount(groups)
    return np.arange(len(means)) * every + (every - 1) / 2, means


def phases(analysis: Analysis, steps: Steps) -> Plot | None:
    """An arm's step time by phase: data, forward, backward, optimizer, relative to the baseline's step."""
    found = steps.phases
    if not any(sum(sum(one.parts[phase]) for phase in PHASES if phase != "data") for one in found):
        return None
    base = {one.setting_id: float(np.mean(one.step)) for one in found if one.arm == analysis.baseline}
    rows = [one for one in found if one.setting_id in base]
    num_arms = max(1, len({one.arm for one in rows}))
    everything = list(dict.fromkeys(one.setting_id for one in rows))
    most = everything[: max(1, _MOST_PHASES // num_arms)]
    rows = [one for one in rows if one.setting_id in most]
    if not rows:
        return None
    settings = list(dict.fromkeys(one.setting_id for one in rows))
    figure, (axes,) = new_figure(1.0 + 0.24 * (len(rows) + 1.2 * len(settings)))
    ticks: list[tuple[float, str]] = []
    y, last = -1.0, ""
    for one in rows:
        if one.setting_id != last:
            y += 1.2
            heading(axes, y, one.setting)
            last = one.setting_id
        y += 1
        left = 0.0
        whole = float(np.mean(one.step))
        parts = {phase: float(np.mean(one.parts[phase])) for phase in PHASES}
        parts["the rest"] = max(0.0, whole - sum(parts.values()))
        for phase, seconds in parts.items():
            width = seconds / base[one.setting_id]
            axes.barh(y, width, left=left, height=0.75, color=COLOURS[_PHASE_COLOURS[phase]],
                      label=phase if len(ticks) == 0 else None)  # fmt: skip
            left += width
        after_bar(axes, max(left, 1.0), y, cost(whole, "step"))  # right of the baseline's line
        ticks.append((y, shorten(one.arm, 20)))
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.set_ylim(y + 0.7, -0.3)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.1)
    axes.axvline(1.0, color=COLOURS["quiet"], linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"seconds a step, as multiples of {shorten(analysis.baseline)}'s step")
    legend(figure, axes, 5)
    caption = (
        "What a step's time goes to, next to the baseline's step, which is 1; the whole step is written at the end."
        " The longest extra piece says why an arm is slower. Arithmetic means over all measured steps and legs; each"
        " phase is its slowest rank's, so the pieces may add up to a little more than the step. Communication counts"
        " where it is waited for, on GPUs mostly in backward and optimizer. “The rest” is what no phase covers. Where"
        f" data is above {percent(INPUT_BOUND_SHARE)} of a step, no engine can help much."
        + (f" Drawn: {len(most)} of {count(len(everything), 'setting')}." if len(most) < len(everything) else "")
    )
    return Plot("phases", "Where the time of a step goes", "why", figure, caption)


def order_and_drift(analysis: Analysis) -> Plot | None:
    """Each leg's step time by its place in the trial, and its change from its first half to its second."""
    legs = analysis.pairs.legs
    ok = legs.ok & np.isfinite(legs.steps.mean_seconds) & np.isfinite(legs.number["position"])
    if np.count_nonzero(ok) < 4:
        return None
    arm = legs.text["arm"]
    cell = analysis.pairs.leg_block * (int(arm.codes.max()) + 1) + arm.codes
    logs = np.log(np.where(ok, legs.steps.mean_seconds, 1.0))
    centre = mean_by(cell[ok], logs[ok], int(cell.max()) + 1)
    deviation = 100 * np.expm1(logs - centre[cell])
    names = [name for name in arms_of(analysis) if name in arm.names]
    low = max(1.8, 0.6 + 0.2 * len(names))
    figure, (left, right) = new_figure(3.2 + low, 2, 1, height_ratios=[2.4, low])
    many = int(np.count_nonzero(ok)) > 2000
    for place, name in enumerate(names):
        rows = np.flatnonzero(ok & (arm.codes == arm.names.index(name)))
        if not len(rows):
            continue
        colour, marker, _ = arm_style(name, arms_of(analysis), analysis.baseline)
        shift = (place - (len(names) - 1) / 2) * 0.6 / len(names)
        position = legs.number["position"][rows]
        look: dict[str, Any] = {
            "color": colour,
            "markersize": 3.5,
            "alpha": 0.7,
            "markeredgewidth": 0,
            "rasterized": many,
        }
        left.plot(position + shift, deviation[rows], marker, label=shorten(name, 20), **look)
        drift = 100 * np.expm1(legs.steps.drift[rows])
        jitter = np.linspace(-0.25, 0.25, len(rows)) if len(rows) > 1 else np.zeros(1)
        right.plot(drift, place + jitter, marker, **look)
        if np.isfinite(drift).any():
            right.plot([np.nanmedian(drift)] * 2, [place - 0.35, place + 0.35], color=COLOURS["ink"], linewidth=1.6)
    places = np.unique(legs.number["position"][ok]).astype(int)
    means = [float(deviation[ok & (legs.number["position"] == p)].mean()) for p in places]
    left.plot(places, means, color=COLOURS["ink"], linewidth=1.2)
    left.axhline(0, color=COLOURS["quiet"], linewidth=0.8)
    left.set_title("by place in the trial", loc="left")
    left.set_xlabel("the leg's place in its trial")
    left.set_ylabel("step against the arm's mean, %")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) <= 12:
        legend(figure, left, scale=1.8)
    right.axvspan(-100 * analysis.margin, 100 * analysis.margin, color=COLOURS["band"], linewidth=0, zorder=0)
    right.set_title("within a leg", loc="left")
    right.set_yticks(range(len(names)), [shorten(name, 20) for name in names])
    right.set_ylim(len(names) - 0.5, -0.5)
    right.set_xlabel("second half against first, % (right: slower)")
    for axes in (left, right):
        axes.grid()
    caption = (
        "Above: each leg's mean step against the mean of its arm in its setting, by its place in the trial; the line is"
        " the mean of all. A slope is a drift of the machine, which the mirrored order of the second round cancels; a"
        " step for one arm alone is carry-over, which it does not. Below: each leg's second half against its first; the"
        f" black bar is the median, and outside the grey band it is above the margin of {percent(analysis.margin)}:"
        " that leg had not settled, and a longer warm-up is due."
    )
    return Plot("order_and_drift", "Order and drift", "sure", figure, caption)


def failures(analysis: Analysis) -> Plot | None:
    """How many legs of each arm failed, by cause."""
    legs = analysis.pairs.legs
    rows = np.flatnonzero(~legs.ok)
    if not len(rows):
        return None
    counts = Counter((legs.text["arm"][row], legs.text["failure_kind"][row] or "error") for row in rows)
    all_legs = Counter(legs.text["arm"][row] for row in range(len(legs)))
    names = [name for name in arms_of(analysis) if any(arm == name for arm, _ in counts)]
    kinds = sorted({kind for _, kind in counts})
    figure, (axes,) = new_figure(1.15 + 0.32 * len(names))
    palette = ("vermillion", "purple", "orange", "blue", "olive", "sky", "green")
    hatches = ("", "///", "...", "xxx", "\\\\\\", "+++", "---")
    for row, name in enumerate(names):
        left = 0.0
        for place, kind in enumerate(kinds):
            number = counts[name, kind]
            axes.barh(row, number, left=left, height=0.65, color=COLOURS[palette[place % 7]], hatch=hatches[place % 7],
                      edgecolor="white", linewidth=0.6, label=kind if row == 0 else None)  # fmt: skip
            left += number
        after_bar(axes, left, row, f"{left:.0f} of {all_legs[name]} legs")
    axes.set_yticks(range(len(names)), [shorten(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.15)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("failed legs")
    legend(figure, axes)
    caption = (
        "Legs that gave no measurement, by arm and cause, out of all that were started. A failed leg is a row of the"
        " ledger like any other; what the speedups rest on is the trials in which both sides ran. The messages are in"
        " the table of failures."
    )
    return Plot("failures", "What failed", "sure", figure, caption)
