"""Any document on a terminal: the sections, then the answer, which ends where the reader's eye is."""

from __future__ import annotations

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
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
MOST_LINES: Final = 12  # of the answer's lines about arms; what a sweep prints at its end stays within 25
_LONGEST_NAME: Final = 30
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
    """Print the answer, at most `MOST_LINES` lines; with `full` all that stands behind it first, with `quiet` the
    lines of the answer alone. Long lists are cut, and say so.
    """
    if full:
        for section in document.sections:
            print_section(section, console)
        console.print()
    about = [block for block in document.answer if isinstance(block, Paragraph) and (block.quiet or block.lead)]
    shown = [block for block in document.answer if block not in about]
    for block in shown if quiet else [*about, *shown]:
        _print(block, console)


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
            _answers(block, console)
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


def _answers(block: Answers, console: Console) -> None:
    """A sentence each where there is room for that, else a row each; more than fit are counted."""
    sentences = [_sentence(one) for one in block.answers]
    lines = [len(text.wrap(console, console.width)) for text in sentences]
    if sum(lines) <= MOST_LINES:
        for text in sentences:
            console.print(text)
        return
    table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown = block.answers[:MOST_LINES]
    for name, texts in {
        "arm": [one.name for one in shown],
        "verdict": [one.verdict for one in shown],
        "time": ["× 1.00"],
        "speedup": [one.speedup for one in shown],
        "interval": [one.interval for one in shown],
        "by setting": [],
    }.items():
        needed = min(_LONGEST_NAME, max(map(len, [name, *texts]))) if texts else None  # the last one alone gives way
        right = name in ("time", "speedup", "interval")
        table.add_column(
            name, no_wrap=True, justify="right" if right else "left", overflow="ellipsis", min_width=needed
        )
    for one in shown:
        counts = one.counts.removeprefix("by setting: ").partition(";")[0]
        verdict = Text(one.verdict, COLOURS.get(one.verdict, ""))
        time = f"× {units.about(1 / one.strip.value)}" if one.strip else ""
        table.add_row(Text(one.name), verdict, time, one.speedup, one.interval, Text(counts))
    console.print(table)
    if len(block.answers) > MOST_LINES:
        console.print(f"... and {len(block.answers) - MOST_LINES} more arms; --full shows all")


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
    """The numbers of the columns that there is room for: details go, the last one first."""
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


def _table(block: Table, width: int) -> RichTable:
    title = Text(block.title) if block.title else None
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    kept = _columns_that_fit(block, width)
    for number, column in enumerate(block.columns[place] for place in kept):
        folds = column.folds or number == 0
        table.add_column(
            Text(column.name), justify="right" if column.number else "left", no_wrap=not folds,
            overflow="fold", min_width=min(16, width // 4) if number == 0 else None,
        )  # fmt: skip
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
    hidden = len(block.rows) - MOST_ROWS
    notes = [f"... and {hidden} more; --csv and --json give all" if hidden > 0 else block.left_out, block.note]
    table.caption = Text("\n".join(filter(None, notes)), "dim") if any(notes) else None
    table.caption_justify = "left"
    return table
