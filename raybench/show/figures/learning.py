"""The figure of learning: training loss and accuracy of each leg of a setting over its training seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raybench.analysis import Analysis
from raybench.show.figures.style import COLOURS, arm_style, legend, new_figure, shorten
from raybench.show.plot import Plot

COLUMNS: Final = ("step_losses", "epoch_seconds", "epoch_accuracy", "protocol")
_MOST_POINTS: Final = 200
_MOST_ARMS: Final = 6


@dataclass(frozen=True)
class Curve:
    """One leg's training: losses at `steps` seconds, accuracy (a share) at the ends of epochs; arrays of seconds."""

    arm: str
    setting: str
    steps: np.ndarray
    losses: np.ndarray
    epochs: np.ndarray
    accuracy: np.ndarray  # nan for an epoch that was not evaluated
    target: float | None


def curves_of(rows: Sequence[dict[str, Any]], arms: Sequence[str]) -> tuple[Curve, ...]:
    """The legs of the first setting that was trained by epochs and evaluated; empty where there is none."""
    told = [
        row for row in rows if row.get("epoch_accuracy") and row.get("step_losses") and row["arm"] in arms[:_MOST_ARMS]
    ]
    return tuple(_curve(row) for row in told if row["setting_id"] == told[0]["setting_id"])


def _curve(row: dict[str, Any]) -> Curve:
    every = -(-len(row["step_losses"]) // _MOST_POINTS)
    groups = np.arange(len(row["step_losses"])) // every
    sizes = np.bincount(groups)
    seconds = np.cumsum(row["step_seconds"])
    return Curve(
        row["arm"],
        row["setting"] or "",
        np.bincount(groups, seconds) / sizes,
        np.bincount(groups, np.array(row["step_losses"], dtype=float)) / sizes,
        np.cumsum(row["epoch_seconds"]),
        np.array([np.nan if value is None else value for value in row["epoch_accuracy"]]),
        json.loads(row.get("protocol") or "{}").get("target_accuracy"),
    )


def learning(analysis: Analysis, curves: Sequence[Curve]) -> Plot | None:
    """Loss and accuracy over training seconds, one line per leg; None where nothing was trained by epochs."""
    if not curves:
        return None
    arms = [analysis.baseline, *dict.fromkeys(c.arm for c in analysis.comparisons)]
    figure, (left, right) = new_figure(3.4, 1, 2)
    named: set[str] = set()
    for curve in curves:
        colour, _, dashes = arm_style(curve.arm, arms, analysis.baseline)
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 0.9, "alpha": 0.75}
        left.plot(curve.steps, curve.losses, **look)
        evaluated = np.isfinite(curve.accuracy)
        right.plot(
            curve.epochs[evaluated], 100 * curve.accuracy[evaluated], marker="o", markersize=2.5,
            label=shorten(curve.arm, 20) if curve.arm not in named else None, **look,
        )  # fmt: skip
        named.add(curve.arm)
    _finish(left, "training loss", "loss of a step")
    _finish(right, "accuracy after each epoch", "test samples right, %")
    target = curves[0].target
    if target is not None:
        right.axhline(100 * target, color=COLOURS["quiet"], linewidth=0.9, linestyle="--")
    legend(figure, right)
    caption = (
        f"Every leg of {curves[0].setting}, a line each, over its seconds of training; evaluation is not counted. Lines"
        " of one arm that lie apart were slower or learned otherwise in another trial; arms whose lines end at"
        " different heights did not train to the same model, whatever their speed."
        + (
            ""
            if target is None
            else " The dashed line is the target, which a line first meets at its time to accuracy."
        )
        + (f" The first {_MOST_ARMS} arms." if len({c.arm for c in analysis.comparisons}) >= _MOST_ARMS else "")
        + " The loss is the mean of several steps a point where there are many."
    )
    return Plot("learning", "Loss and accuracy over training time", "why", figure, caption)


def _finish(axes: Axes, title: str, name: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(name)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid()
