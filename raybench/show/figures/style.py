"""How figures look and are saved: colours that colour-blind readers can distinguish, and reproducible bytes.

Every colour is one of `COLOURS`, so that the page can replace it with a CSS variable for its light and dark themes.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from itertools import accumulate
from typing import Any, Final, Literal
from unicodedata import east_asian_width

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from raybench.show.plot import WIDTH

# Verdicts differ by a colour difference of 15 or more, also for colour-blind readers, with 4.5:1 contrast on the page's
# paper (tests/show/test_palette.py). Arms have a marker each, and verdicts differ in shape as well as colour.
COLOURS: Final = {
    "ink": "#1b1f24",
    "quiet": "#5b636d",
    "grid": "#d5d9de",
    "band": "#e4e7eb",
    "link": "#0066b3",
    "helps": "#4364ff",
    "hurts": "#de1600",
    "no-effect": "#21854e",
    "undecided": "#646f6f",
    "unlocks": "#00002c",
    "blocked": "#37000b",
    "failed": "#7a0000",
    "both-failed": "#593764",
    "not-comparable": "#000bde",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "orange": "#c98a00",
    "purple": "#b0578d",
    "sky": "#3f9fd6",
    "olive": "#8a8500",
}
# The same names for the dark theme.
DARK: Final = {
    "ink": "#e6e9ed",
    "quiet": "#a3adb8",
    "grid": "#333a42",
    "band": "#2a3038",
    "link": "#5eb1ee",
    "helps": "#9064ff",
    "hurts": "#ff9b7a",
    "no-effect": "#bcffd3",
    "undecided": "#a69b9b",
    "unlocks": "#b1a6ff",
    "blocked": "#a66f9b",
    "failed": "#de590b",
    "both-failed": "#ffff0b",
    "not-comparable": "#ffc8e9",
    "blue": "#4ba3e3",
    "vermillion": "#f0813a",
    "green": "#2fbf91",
    "orange": "#e0a83a",
    "purple": "#d488b6",
    "sky": "#8cc8ee",
    "olive": "#bdb73d",
}
VERDICT_STYLE: Final = {  # a colour and a marker; in the order in which verdicts are counted
    "helps": ("helps", "^"),
    "hurts": ("hurts", "v"),
    "no effect": ("no-effect", "s"),
    "unlocks": ("unlocks", "P"),
    "blocked": ("blocked", "X"),
    "failed": ("failed", "X"),
    "both failed": ("both-failed", "X"),
    "not comparable": ("not-comparable", "D"),
    "undecided": ("undecided", "o"),
}
_ARM_COLOURS: Final = ("blue", "vermillion", "green", "purple", "orange", "sky", "olive")
_ARM_MARKERS: Final = ("o", "^", "s", "D", "v", "P", "X", "<", ">")  # 63 distinct pairs with the colours
_DASHES: Final = ("-", "--", ":", "-.")
# Ticks of ratios by importance: the first ones that fit are used.
_TICKS: Final = (
    *(1, 10, 0.1, 100, 0.01, 1000, 0.001, 2, 0.5, 5, 0.2, 20, 0.05, 50, 0.02),
    *(1.5, 0.7, 3, 0.3, 1.2, 0.8, 1.1, 0.9, 1.3, 0.6, 1.05, 0.95, 1.4, 1.02, 0.98, 1.01, 0.99),
)
WIDEST: Final = 8.0  # for a figure with many columns, which a telephone scrolls
_SETTINGS: Final[dict[str, Any]] = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.edgecolor": COLOURS["quiet"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "raybench",
    "pdf.fonttype": 42,
    "savefig.transparent": True,
}


_Place = Literal["outside lower left", "outside upper right"]


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the style while drawing or saving, whatever the user's own matplotlib settings."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        for name, value in _SETTINGS.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def is_hollow(verdict: str) -> bool:
    """Whether a verdict's marks are hollow, because nothing was shown."""
    return verdict in ("undecided", "not comparable")


def new_figure(
    height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with its axes in reading order; by default as wide as a telephone's page."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def arm_style(arm: str, arms: Sequence[str], baseline: str) -> tuple[str, str, str]:
    """(colour, marker, dashes) of an arm, the same in every figure of a report; distinct for up to 63 arms."""
    if arm == baseline:
        return COLOURS["ink"], "*", "-"
    place = [name for name in dict.fromkeys(arms) if name != baseline].index(arm)
    dashes = _DASHES[place // len(_ARM_COLOURS) % len(_DASHES)]
    return COLOURS[_ARM_COLOURS[place % len(_ARM_COLOURS)]], _ARM_MARKERS[place % len(_ARM_MARKERS)], dashes


def ratio_axis(axes: Axes, low: float, high: float, axis: str = "x", name: str = "speedup") -> None:
    """A log axis of ratios from `low` to `high`, ticks such as 0.5 and 1.1, wide enough to hold 1."""
    low, high = min(low, 0.97), max(high, 1.03)
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    (axes.set_xlim if axis == "x" else axes.set_ylim)(low, high)
    which = axes.xaxis if axis == "x" else axes.yaxis
    which.set_major_locator(FixedLocator(ratio_ticks(low, high)))
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    which.set_minor_locator(NullLocator())
    which.set_minor_formatter(NullFormatter())
    (axes.set_xlabel if axis == "x" else axes.set_ylabel)(name)


def ratio_ticks(low: float, high: float, reach: float = 9.0) -> list[float]:
    """Ticks of a log axis, at least 1/`reach` of it apart."""
    ticks: list[float] = []
    for tick in _TICKS:
        far = all(abs(math.log(tick / other)) > math.log(high / low) / reach for other in ticks)
        if low <= tick <= high and far:
            ticks.append(tick)
    return ticks


def shorten(text: str, most: int = 42) -> str:
    """A name that fits beside an axis, on one line."""
    line = " ".join(text.split())
    widths = list(accumulate(2 if east_asian_width(character) in "WF" else 1 for character in line))
    if not widths or widths[-1] <= most:
        return line
    return line[: sum(width < most for width in widths)] + "…"


def two_lines(text: str, most: int = 24) -> str:
    """A name that fits beside an axis: wrapped once, after a comma where both parts fit, then cut."""
    parts = " ".join(text.split()).rpartition(", ")
    lines = f"{parts[0]},", parts[2]
    if parts[1] and shorten(text, most) != text and all(shorten(line, most) == line for line in lines):
        return "\n".join(lines)
    first, *rest = textwrap.wrap(shorten(text, 10 * most), most) or [""]
    return "\n".join([first, *([shorten(" ".join(rest), most)] if rest else [])])


def heading(axes: Axes, row: float, text: str) -> None:
    """A name over the rows below it, across the axes; lines and bands stop at it, so that nothing crosses the name."""
    axes.spines["left"].set_visible(False)
    axes.axhspan(row - 0.5, row + 0.5, facecolor="white", edgecolor="none", zorder=2.5)
    axes.annotate(
        shorten(text, 60), (0, row), xycoords=("figure fraction", "data"), xytext=(2, 0), textcoords="offset points",
        va="center", fontsize=8.5, fontweight="bold", zorder=3, annotation_clip=False,
    ).set_in_layout(False)  # fmt: skip


def after_bar(axes: Axes, x: float, y: float, text: str) -> None:
    """Text behind the end of a bar."""
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)


def legend(
    figure: Figure, axes: Axes, ncols: int = 4, place: _Place = "outside lower left", scale: float = 1.0
) -> None:
    """A legend outside the axes, so that it covers no mark; its own marks are `scale` times as large."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc=place, ncols=ncols, columnspacing=1.2, handletextpad=0.5, markerscale=scale)


def settle(figure: Figure) -> None:
    """Lay the figure out once, for all formats."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def add_note(figure: Figure, text: str) -> None:
    """Text below everything else in a figure that is settled; the figure grows by its height."""
    lines = textwrap.fill(text, 72)
    before = figure.get_figheight()
    height = before + 0.06 + 0.15 * len(lines.splitlines())
    kept = before / height
    figure.set_figheight(height)
    for axes in figure.axes:
        left, bottom, width, high = axes.get_position().bounds
        axes.set_position((left, 1 - kept + kept * bottom, width, kept * high))
    for one in figure.legends:
        one.set_bbox_to_anchor((0.0, 1 - kept, 1.0, kept), figure.transFigure)
    figure.text(0.01, 0.02 / height, lines, va="bottom", ha="left", fontsize=8.5)


def save(figure: Figure, kind: str) -> bytes:
    """The figure as `svg`, `png` or `pdf`; without dates, so that the same figure gives the same bytes."""
    metadata: dict[str, Any] = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[kind]
    file = io.BytesIO()
    with drawing():
        look: dict[str, Any] = {"facecolor": "white", "transparent": False} if kind == "png" else {}
        figure.savefig(file, format=kind, dpi=160, metadata=metadata, **look)
    return file.getvalue()


def _title(text: str | None) -> str:
    return "" if text is None else f"<title>{escape(text)}</title>"


def on_white(svg: str) -> str:
    """The drawing as a file, with a ground: on a dark page its text would be dark on dark."""
    return svg.replace("<svg ", '<svg style="background: #ffffff" ', 1)


def inline_svg(svg: str, name: str, title: str, tips: Mapping[str, str], size: str = "") -> str:
    """An SVG file's text for embedding in a page: unique ids, colours as CSS variables, a label for screen readers, and
    hover texts. `title` is already escaped, `tips` are not; `size` is CSS."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    if tips:
        body = re.sub(r'<g id="([^"]*)">', lambda found: found[0] + _title(tips.get(found[1])), body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', body)
    for colour, value in COLOURS.items():
        body = body.replace(f": {value}", f": var(--{colour})")
        body = body.replace(f'fill="{value}"', f'fill="var(--{colour})"')  # the ground of a hatched bar
    body = body.replace("stroke: #ffffff", "stroke: var(--paper)")  # gaps between bars, not text on them
    body = body.replace("fill: #ffffff", "fill: var(--paper)")  # hollow marks
    opening, rest = body.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*pt"', "", opening)
    return f'{opening} role="img" aria-label="{title}" style="{size}">{rest}'
