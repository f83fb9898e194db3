"""What a reader gets, before any renderer: paragraphs, lists, tables, figures and code in sections, all of it text.

Builders (`answer`, `plan`, `calibration`, `changes`) make a Document; `terminal`, `page` and `tables` render any. Texts
are plain: no markup of any renderer stands in them, and each renderer escapes what it must.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raybench.show.figures.style import Plot


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `verdict` names what it says of an arm, for a renderer with colours."""

    text: str
    lead: str = ""  # its first words, which stand out
    strong: bool = False
    quiet: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Answer:
    """One line of the answer: who, what was shown of it, and the numbers behind it."""

    name: str
    verdict: str
    text: str  # the sentence, without the name
    counts: str = ""
    speedup: str = ""
    interval: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class Answers:
    """The lines of the answer. A renderer with little room shows name, verdict and numbers instead of sentences."""

    answers: tuple[Answer, ...]
    margin: float
    against: str


@dataclass(frozen=True)
class Items:
    """A list under a title. Renderers show the first `most` and a count of the rest; None shows all."""

    title: str
    items: tuple[str, ...]
    most: int | None = None
    folded: bool = False  # only the count is seen until a reader asks


@dataclass(frozen=True)
class Terms:
    """Terms and what is said of each; folded under its title where it has one."""

    title: str
    terms: tuple[tuple[str, str], ...]
    folded: bool = True
    verdicts: bool = False  # the terms are verdicts, shown as such


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and what it is sorted by where that is another text."""

    text: str
    key: str = ""
    link: str = ""
    verdict: str = ""
    note: str = ""  # shown on demand, beside the cell


@dataclass(frozen=True)
class Column:
    """A table's column."""

    name: str
    number: bool = False
    folds: bool = False  # its texts may be broken into lines
    detail: bool = False  # left out where there is no room


@dataclass(frozen=True)
class Row:
    """A row; rows of one group stand together under its name. `strips` are the row's intervals as numbers."""

    cells: tuple[Cell, ...]
    group: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class Strip:
    """A speedup on a line: its value, the plain interval (thick), the claim's (thin); None for what is missing."""

    value: float
    low: float | None
    high: float | None
    claim_low: float | None
    claim_high: float | None
    verdict: str
    points: tuple[float, ...] = ()  # the settings', where the value is an arm's


@dataclass(frozen=True)
class Table:
    """A table with a name for files and links; `note` says what all of its rows have in common."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    left_out: str = ""  # where the rows are that are not here
    margin: float | None = None  # of the strips
    filters: bool = False  # worth searching in


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption."""

    plot: Plot


@dataclass(frozen=True)
class Code:
    """Text to be copied; folded under its title where it is long."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Heading:
    """The title of what follows inside a section."""

    text: str


Block = Paragraph | Answers | Items | Terms | Table | Figure | Code | Heading


@dataclass(frozen=True)
class Section:
    """A part of a document; `name` is its place in a page."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """What is to be said: the answer, which must stand alone, and the sections behind it."""

    title: str
    answer: tuple[Block, ...]
    sections: tuple[Section, ...] = field(default=())


def row(*cells: str | Cell, group: str = "", strip: Strip | None = None) -> Row:
    """A row of cells, texts made cells."""
    return Row(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), group, strip)


def columns(*names: str, numbers: tuple[str, ...] = (), folds: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """Columns by their names, those in `numbers` to the right."""
    return tuple(Column(name, name in numbers, name in folds) for name in names)
