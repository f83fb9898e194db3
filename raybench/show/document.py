"""A document before rendering: paragraphs, lists, tables, figures and code in sections, all of it text.

Builders (`answer`, `plan`, `calibration`, `changes`) make a Document; `terminal`, `page` and `tables` render any. Texts
are plain, without any renderer's markup; each renderer escapes what it must.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raybench.show.plot import Plot


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `verdict` is the one it reports, for renderers with colours."""

    text: str
    lead: str = ""  # first words, emphasized
    strong: bool = False
    quiet: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Answer:
    """One line of the answer: an arm, its result, and the numbers behind it."""

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
    cost: str = "time"  # what is compared
    ratio: str = "speedup"  # what the baseline's cost over an arm's is called


@dataclass(frozen=True)
class Items:
    """A list under a title. Renderers show the first `most` and a count of the rest; None shows all."""

    title: str
    items: tuple[str, ...]
    most: int | None = None
    folded: bool = False  # only the count is visible until a reader unfolds it


@dataclass(frozen=True)
class Terms:
    """Terms and their explanations; folded under a title if there is one."""

    title: str
    terms: tuple[tuple[str, str], ...]
    folded: bool = True
    verdicts: bool = False  # the terms are verdicts and look like them


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, and the sort key where that is a different text."""

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
    folds: bool = False  # its texts may wrap
    detail: bool = False  # dropped where there is no room


@dataclass(frozen=True)
class Row:
    """A row; rows of one group are shown together under its name. `strips` are the row's intervals as numbers."""

    cells: tuple[Cell, ...]
    group: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class Strip:
    """A speedup drawn on a line: value, plain interval (thick), the claim's interval (thin); None where missing."""

    value: float
    low: float | None
    high: float | None
    claim_low: float | None
    claim_high: float | None
    verdict: str
    points: tuple[float, ...] = ()  # the settings' speedups, if the value is an arm's


@dataclass(frozen=True)
class Table:
    """A table, named for files and links; `note` states what all rows have in common."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    left_out: str = ""  # where to find the rows that are left out
    margin: float | None = None  # for the strips
    filters: bool = False  # whether it is worth searching


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption."""

    plot: Plot


@dataclass(frozen=True)
class Code:
    """Text to copy; folded under its title where it is long."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Heading:
    """The title of what follows within a section."""

    text: str


Block = Paragraph | Answers | Items | Terms | Table | Figure | Code | Heading


@dataclass(frozen=True)
class Section:
    """A part of a document; `name` is its anchor in a page."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """The answer, which must make sense alone, and the sections behind it."""

    title: str
    answer: tuple[Block, ...]
    sections: tuple[Section, ...] = field(default=())


def row(*cells: str | Cell, group: str = "", strip: Strip | None = None) -> Row:
    """A row of cells; plain texts become cells."""
    return Row(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), group, strip)


def columns(*names: str, numbers: tuple[str, ...] = (), folds: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """Columns by name; those in `numbers` are right-aligned."""
    return tuple(Column(name, name in numbers, name in folds) for name in names)
