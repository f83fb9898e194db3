"""Renders any document on a terminal: the sections, then the answer last, just above the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from raybench.show import units
from raybench.show.document import (
    Answer,
    Answers,
    Block,
    Code,
    Document,
    Figure,
    Heading,
    Items,
    Paragraph,
    Section,
    Table,
    Terms,
)

MOST_ROWS: Final = 60
MOST_LINES: Final = 12  # of the answer about arms
_FEWEST_ROWS: Final = 6  # rows for the answer's arms, however much else there is to show
_SCREEN: Final = 23  # lines of an answer; the report's link or a hint follows, and 25 fit a terminal
_GAP: Final = 2  # characters between columns
_BROKEN: Final = 16  # words in a folding column may be broken into pieces of this many characters
_LONGEST_NAME: Final = 30
_BY_SETTING: Final = "by setting: "
_LEAST_COUNTS: Final = 12  # characters; with less room, the counts of verdicts are left out
COLOURS: Final = {
    "helps": "bold blue",
    "hurts": "bold red",
    "no effect": "cyan",
    "unlocks": "blue",
    "blocked": "red",
    "failed": "red",
    "both failed": "red",
    "not comparable": "magenta",
    "undecided": "dim",
}


def print_document(document: Document, console: Console, *, full: bool = False, quiet: bool = False) -> None:
    """Print the answer, at most `_SCREEN` lines. `full` first prints everything behind it, uncut; `quiet` prints only
    the lines of the answer. Omitted lines are counted.
    """
    if full:
        for section in document.sections:
            print_section(section, console)
        console.print()
    about = [block for block in document.answer if isinstance(block, Paragraph) and (block.quiet or block.lead)]
    shown = [block for block in document.answer if block not in about]
    most = max((len(block.answers) for block in shown if isinstance(block, Answers)), default=0) if full else MOST_LINES
    if not full and not quiet:
        about, most = _fit_screen(about, shown, console)
    for block in shown if quiet else [*about, *shown]:
        if isinstance(block, Answers):
            _answers(block, console, most)
        else:
            _print(block, console)


def _fit_screen(about: list[Paragraph], shown: list[Block], console: Console) -> tuple[list[Paragraph], int]:
    """Which paragraphs to print around the answer, and for how many of its arms a row, so that all fits a screen.

    The most important paragraphs come first and stay; the sentence that explains speedups is dropped before them.
    """

    def height(*blocks: Block) -> int:
        return sum(len(_paragraph(one).wrap(console, console.width)) for one in blocks if isinstance(one, Paragraph))

    def height_of_arms(most: int) -> int:
        return sum(_height(block, console, most) for block in shown if isinstance(block, Answers))

    room = _SCREEN - height(*shown)
    most = MOST_LINES
    while most > _FEWEST_ROWS and height(*about) + height_of_arms(most) > room:
        most -= 1
    kept = list(about)
    while kept and height(*kept) + height_of_arms(most) + (len(kept) < len(about)) > room:
        kept.remove(next((one for one in kept if one.quiet), kept[-1]))
    hidden = len(about) - len(kept)
    if hidden and not all(one.quiet for one in about if one not in kept):
        kept.append(Paragraph(f"--full says {hidden} more.", quiet=True))
    return kept, most


def print_in_order(document: Document, console: Console) -> None:
    """Print a document from its beginning: the answer, then all sections."""
    for block in document.answer:
        _print(block, console)
    for section in document.sections:
        print_section(section, console)


def print_section(section: Section, console: Console) -> None:
    """Print one section, if there is anything in it for a terminal."""
    shown = [block for block in section.blocks if not isinstance(block, Figure)]
    if not shown:
        return
    console.print(Text(f"\n{section.title}", "bold underline"))
    for block in shown:
        _print(block, console)


def _print(block: Block, console: Console) -> None:
    match block:
        case Paragraph():
            console.print(_paragraph(block), soft_wrap=False)
        case Answers():
            _answers(block, console, MOST_LINES)
        case Items():
            _items(block, console)
        case Terms():
            _items(Items(block.title, tuple(f"{term}: {text}" for term, text in block.terms)), console)
        case Table():
            console.print(_table(block, console.width))
        case Code():
            console.print(Text(f"\n{block.title}", "bold"))
            console.print(Text(block.text.rstrip()), soft_wrap=True)
        case Heading():
            console.print(Text(f"\n{block.text}", "bold"))
        case Figure():
            pass


def _paragraph(block: Paragraph) -> Text:
    style = "bold" if block.strong else "dim" if block.quiet else ""
    text = Text(block.text, style)
    if not block.lead:
        return text
    return Text.assemble((block.lead, COLOURS.get(block.verdict, "bold")), " ", text)


def _sentences(block: Answers, console: Console) -> list[Text]:
    """A sentence per arm; empty where they need more than `MOST_LINES` lines."""
    sentences = [_sentence(one) for one in block.answers]
    fits = sum(len(text.wrap(console, console.width)) for text in sentences) <= MOST_LINES
    return sentences if fits else []


def _height(block: Answers, console: Console, most: int) -> int:
    if sentences := _sentences(block, console):
        return sum(len(text.wrap(console, console.width)) for text in sentences)
    return 2 + min(most, len(block.answers)) + (len(block.answers) > most)


def _answers(block: Answers, console: Console, most: int) -> None:
    """A sentence each if there is room, else a row each; arms beyond `most` are counted."""
    if sentences := _sentences(block, console):
        for text in sentences:
            console.print(text)
        return
    table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown = block.answers[:most]
    columns = {
        "arm": [one.name for one in shown],
        "verdict": [one.verdict for one in shown],
        block.cost: [f"× {units.about(1 / one.strip.value)}" if one.strip else "" for one in shown],
        block.ratio: [one.speedup for one in shown],
        "interval": [one.interval for one in shown],
    }
    widths = {name: min(_LONGEST_NAME, max(map(len, [name, *texts]))) for name, texts in columns.items()}
    for name in (block.cost, "interval"):  # the ratio implies these, and the page has them
        if sum(width + 2 for width in widths.values()) > console.width:
            del widths[name], columns[name]
    room = console.width - sum(width + 2 for width in widths.values()) - 2
    counts = [one.counts.partition(";")[0] if one.counts.startswith(_BY_SETTING) else "" for one in shown]
    if any(counts) and room >= _LEAST_COUNTS:
        columns["by setting"] = [_whole_parts(text.removeprefix(_BY_SETTING), room) for text in counts]
    for name in columns:
        right = name in (block.cost, block.ratio, "interval")
        table.add_column(name, no_wrap=True, justify="right" if right else "left", overflow="ellipsis")
    for one, *texts in zip(shown, *columns.values(), strict=True):
        colour = COLOURS.get(one.verdict, "")
        table.add_row(
            *(Text(text, colour if name == "verdict" else "") for name, text in zip(columns, texts, strict=True))
        )
    console.print(table)
    if len(block.answers) > most:
        console.print(f"... and {len(block.answers) - most} more arms; --full shows all")


def _whole_parts(text: str, room: int) -> str:
    """As many of a list's parts as fit, none of them cut."""
    parts = text.split(", ")
    kept = next((n for n in range(len(parts), 0, -1) if len(", ".join(parts[:n])) + 3 * (n < len(parts)) <= room), 0)
    return ", ".join([*parts[:kept], *["…"] * (kept < len(parts))])


def _sentence(one: Answer) -> Text:
    head = Text.assemble((one.name, "bold"), " ", (one.text, COLOURS.get(one.verdict, "")))
    return Text.assemble(head, "; " if one.counts else "", one.counts, ".")


def _items(block: Items, console: Console) -> None:
    if not block.items:
        return
    if block.title:
        console.print(Text(f"\n{block.title}", "bold"))
    most = MOST_ROWS if block.most is None else block.most
    for item in block.items[:most]:
        console.print(Padding(Text(f"- {' '.join(item.split())}"), (0, 0, 0, 2)))
    if len(block.items) > most:
        console.print(f"  ... and {len(block.items) - most} more")


def _columns_that_fit(block: Table, width: int) -> list[int]:
    """The indices of the columns that fit: detail columns are dropped, the last one first."""
    kept = list(range(len(block.columns)))
    least = [
        16
        if place == 0 or column.folds
        else max(map(len, [column.name, *(row.cells[place].text for row in block.rows)]))
        for place, column in enumerate(block.columns)
    ]
    for place in reversed(kept[:]):
        if sum(least[one] + 2 for one in kept) > width and block.columns[place].detail:
            kept.remove(place)
    return kept


def _table(block: Table, width: int) -> RichTable | Group:
    """A table with columns as wide as their texts, or as room allows; as records where not even their longest words
    fit.
    """
    kept = _columns_that_fit(block, width)
    texts = [[block.columns[place].name, *(row.cells[place].text for row in block.rows[:MOST_ROWS])] for place in kept]
    indented = 2 * any(row.group for row in block.rows)
    widths = [max(map(len, column)) for column in texts]
    widths[0] += indented
    least = [max((len(word) for text in column for word in text.split()), default=1) for column in texts]
    least = [
        min(one, _BROKEN) if place == 0 or block.columns[place].folds else one
        for place, one in zip(kept, least, strict=True)
    ]
    least[0] = min(widths[0], least[0] + indented)
    room = width - _GAP * len(kept)
    if sum(least) > room:
        return _records(block, kept)
    while sum(widths) > room:
        widest = max(range(len(kept)), key=lambda number: widths[number] - least[number])
        widths[widest] -= 1
    title = Text(block.title) if block.title else None
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, wide in zip(kept, widths, strict=True):
        column = block.columns[place]
        table.add_column(Text(column.name), justify="right" if column.number else "left", overflow="fold", width=wide)
    group = ""
    for row in block.rows[:MOST_ROWS]:
        if row.group and row.group != group:
            table.add_row(Text(row.group, "bold"))
            group = row.group
        indent = "  " if row.group else ""
        table.add_row(
            *(
                Text(f"{indent if place == 0 else ''}{cell.text}", COLOURS.get(cell.verdict, ""))
                for place, cell in ((place, row.cells[place]) for place in kept)
            )
        )
    table.caption = _caption(block)
    table.caption_justify = "left"
    return table


def _records(block: Table, kept: Sequence[int]) -> Group:
    """A table as one paragraph per row, with each cell after its column's name."""
    lines: list[RenderableType] = [Text(block.title, "italic")] if block.title else []
    for row in block.rows[:MOST_ROWS]:
        told = [(block.columns[place].name, row.cells[place]) for place in kept if row.cells[place].text]
        (_, first), *rest = told or [("", row.cells[0])]
        lines.append(Text.assemble((first.text, "bold"), *([f" ({row.group})"] if row.group else [])))
        cells = [Text.assemble((f"{name} ", "dim"), (cell.text, COLOURS.get(cell.verdict, ""))) for name, cell in rest]
        lines.append(Padding(Text("; ").join(cells), (0, 0, 0, 2)))
    return Group(*lines, *filter(None, [_caption(block)]))


def _caption(block: Table) -> Text | None:
    hidden = len(block.rows) - MOST_ROWS
    notes = [f"... and {hidden} more; --csv and --json give all" if hidden > 0 else block.left_out, block.note]
    return Text("\n".join(filter(None, notes)), "dim") if any(notes) else None
