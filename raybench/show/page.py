"""Renders any document as one self-contained HTML file. All text in it is escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raybench.show import units
from raybench.show.document import Answers, Block, Document, Figure, Strip, Table
from raybench.show.figures.style import COLOURS, DARK, VERDICT_STYLE, inline_svg, is_hollow, ratio_ticks
from raybench.version import __version__

MOST_OPEN: Final = 60  # groups of larger tables that can be searched are folded
MOST_ROWS: Final = 20  # other tables with more are folded, and so is the first group of a large one
MOST_ANSWERS: Final = 12  # with more arms, the answer is folded
MOST_DRAWN: Final = 400  # rows of a table in the page; its search finds the others too
_WIDTH: Final = 240.0  # of a strip's drawing, in its own units
_HEIGHT: Final = 16.0
_MARKS: Final = {
    "^": "M0 -5L4.6 3.6H-4.6Z",
    "v": "M0 5L4.6 -3.6H-4.6Z",
    "s": "M-3.7 -3.7H3.7V3.7H-3.7Z",
    "D": "M0 -5L5 0L0 5L-5 0Z",
    "P": "M-1.6 -4.8H1.6V-1.6H4.8V1.6H1.6V4.8H-1.6V1.6H-4.8V-1.6H-1.6Z",
    "X": "M-4.6 -3L-3 -4.6L0 -1.6L3 -4.6L4.6 -3L1.6 0L4.6 3L3 4.6L0 1.6L-3 4.6L-4.6 3L-1.6 0Z",
    "o": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
}


def render_page(document: Document, drawings: Mapping[str, str]) -> str:
    """The whole page; `drawings` holds each figure's SVG by name."""
    environment = Environment(
        loader=PackageLoader("raybench.show", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["nobreak"] = lambda text: text.replace(" %", "\u00a0%").replace(" †", "\u00a0†")
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["slug"] = lambda text: text.replace(" ", "-")
    page: str = environment.get_template("page.html").render(
        document=document,
        answers=[block for block in document.answer if isinstance(block, Answers)],
        rest=[block for block in document.answer if not isinstance(block, Answers)],
        light=COLOURS,
        dark=DARK,
        verdict_colours={verdict: colour for verdict, (colour, _) in VERDICT_STYLE.items()},
        hollow=[verdict for verdict in VERDICT_STYLE if is_hollow(verdict)],
        svg=lambda block: _drawing(block, drawings),
        scale=scale_of,
        most_answers=MOST_ANSWERS,
        most_rows=lambda table: MOST_OPEN if table.filters else MOST_ROWS,
        tally=tally,
        strip=draw_strip,
        axis=draw_axis,
        groups=groups,
        version=__version__,
    )
    return page


def _drawing(figure: Figure, drawings: Mapping[str, str]) -> Markup:
    """matplotlib's drawing, with names escaped by matplotlib."""
    plot = figure.plot
    inches = plot.figure.get_figwidth()
    size = f"max-width: {108 * inches:.0f}px" + (f"; min-width: {72 * inches:.0f}px" if plot.is_wide else "")
    return Markup(inline_svg(drawings[plot.name], plot.name, escape(plot.title), plot.tips, size))  # noqa: S704


@dataclass(frozen=True)
class Group:
    """A named group of table rows: the indices of drawn rows, and of those that only a search shows."""

    name: str
    summary: str
    is_open: bool
    drawn: list[int]
    waiting: list[int]


def groups(table: Table) -> list[Group]:
    """The groups of a table's rows; each draws an equal share of `MOST_DRAWN`, if it has as many rows."""
    members: dict[str, list[int]] = {}
    for number, row in enumerate(table.rows):
        members.setdefault(row.group, []).append(number)
    most = _share([len(rows) for rows in members.values()])
    is_small = len(table.rows) <= MOST_OPEN
    return [
        Group(
            name, _summary(table, rows), is_small or (place == 0 and len(rows) <= MOST_ROWS), rows[:most], rows[most:]
        )
        for place, (name, rows) in enumerate(members.items())
    ]


def _share(sizes: Sequence[int]) -> int:
    """How many rows each group may draw, so that together they draw `MOST_DRAWN` if there are as many."""
    left = MOST_DRAWN
    for place, size in enumerate(sorted(sizes)):
        share = max(1, left // (len(sizes) - place))
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)


def _summary(table: Table, rows: list[int]) -> str:
    return tally(cell.verdict for number in rows for cell in table.rows[number].cells if cell.verdict)


def tally(verdicts: Iterable[str]) -> str:
    """How often each verdict occurs, as `12 hurts, 3 undecided`, always in the same order."""
    places = {verdict: place for place, verdict in enumerate(VERDICT_STYLE)}
    counts = sorted(Counter(verdicts).items(), key=lambda one: places.get(one[0], len(places)))
    return ", ".join(f"{number:,} {verdict}" for verdict, number in counts)


def scale_of(block: Block) -> tuple[float, float] | None:
    """The ends of the log axis that a block's strips share; None without strips."""
    strips = [one.strip for one in (block.answers if isinstance(block, Answers) else getattr(block, "rows", ()))]
    return ends([one for one in strips if one is not None])


def ends(strips: Iterable[Strip]) -> tuple[float, float] | None:
    """Limits that hold every value and 1; a very wide interval may exceed the outermost values by a factor of 1.6."""
    drawn = list(strips)
    values = [value for one in drawn for value in (one.value, *one.points)]
    if not values:
        return None
    tips = [end for one in drawn for end in (one.claim_low, one.claim_high, one.low, one.high) if end]
    low = max(min([*values, *tips, 0.97]), min(values) / 1.6)
    high = min(max([*values, *tips, 1.03]), max(values) * 1.6)
    return min(low, 0.97) / 1.03, max(high, 1.03) * 1.03


def _place(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    return round(_WIDTH * math.log(min(max(value, low), high) / low) / math.log(high / low), 1)


def draw_strip(one: Strip, scale: tuple[float, float], margin: float, name: str) -> Markup:
    """A speedup on its line: the margin as a band, the claim's interval thin, the plain one thick, settings faint."""
    left, right = _place(1 / (1 + margin), scale), _place(1 + margin, scale)
    middle, faint = _HEIGHT / 2, round(min(0.5, 12 / max(1, len(one.points))), 2)
    parts = [
        f'<rect class="band" x="{left}" y="0" width="{right - left:.1f}" height="{_HEIGHT:.0f}"/>',
        f'<path class="one" d="M{_place(1.0, scale)} 0V{_HEIGHT:.0f}"/>',
        *(f'<path class="point" opacity="{faint}" d="M{_place(value, scale)} 3V13"/>' for value in one.points),
    ]
    for kind, low, high in (("thin", one.claim_low, one.claim_high), ("thick", one.low, one.high)):
        if low is not None and high is not None:
            parts.append(f'<path class="{kind}" d="M{_place(low, scale)} {middle}H{_place(high, scale)}"/>')
    _, marker = VERDICT_STYLE[one.verdict]
    hollow = " hollow" if is_hollow(one.verdict) else ""
    mark = (
        f'<path class="mark{hollow}" transform="translate({_place(one.value, scale)} {middle})" d="{_MARKS[marker]}"/>'
    )
    told = f"{name}: {units.ratio(one.value)}"
    for what, low, high in (("plain", one.low, one.high), ("the verdict's", one.claim_low, one.claim_high)):
        if text := units.between(low, high):
            told += f"; {what} interval {text}"
    drawn = "".join([*parts, mark])
    label = escape(f"{told}; {one.verdict}")
    return Markup(  # noqa: S704  numbers, and names that are escaped
        f'<svg class="strip v-{one.verdict.replace(" ", "-")}" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{label}"><title>{label}</title>{drawn}</svg>'
    )


def draw_axis(scale: tuple[float, float]) -> Markup:
    """The axis of strips: ticks with their numbers."""
    texts = "".join(
        f'<text x="{min(max(_place(tick, scale), 8), _WIDTH - 8)}" y="11">{tick:g}</text>'
        for tick in ratio_ticks(*scale, reach=7)
    )
    return Markup(  # noqa: S704  numbers
        f'<svg class="strip axis" viewBox="0 0 {_WIDTH:.0f} 14" aria-hidden="true">{texts}</svg>'
    )
