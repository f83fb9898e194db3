"""Documents for other programs: Markdown of any document, LaTeX (booktabs) of any table, an analysis as CSV.

CSV holds every number in full; Markdown and LaTeX hold rounded numbers for readers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from raybench.analysis import Analysis, Comparison
from raybench.show import answer, words
from raybench.show.document import Answers, Block, Code, Document, Figure, Heading, Items, Paragraph, Table, Terms
from raybench.statistics.estimate import plain

MOST_ROWS: Final = 40
_SPECIAL: Final = "\\`*_{}[]|~#"
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "µ": r"$\mu$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def to_csv(analysis: Analysis) -> str:
    """One line a comparison, all its fields; lists are joined by `; `. An empty cell is a missing number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Comparison.COLUMNS)
    for comparison in analysis.comparisons:
        writer.writerow([_csv_cell(value) for value in plain(comparison).values()])
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(map(_part, value))
    if isinstance(value, dict):
        return "; ".join(f"{key}={item}" for key, item in value.items())
    return _defused(value) if isinstance(value, str) else value


def _part(value: Any) -> str:
    return " ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _defused(text: str) -> str:
    """A text that a spreadsheet would run as a formula, made harmless."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def to_latex(table: Table, comments: Iterable[str] = (), notes: Iterable[str] = ()) -> str:
    """A `tabular` with booktabs rules, to be \\input into a paper."""

    def clean(cell: str) -> str:
        return "".join(_LATEX.get(character, character) for character in " ".join(cell.split()))

    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {' '.join(line.split())}" for line in comments),
        rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}",
        r"\toprule",
        " & ".join(clean(column.name) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(clean(cell.text) for cell in row.cells) + r" \\" for row in table.rows),
        *(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{{clean(line)}}} \\" for line in notes),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def to_markdown(document: Document, *, most: int | None = None) -> str:
    """A document in GitHub's Markdown; tables and lists longer than `most` lines are cut, with a note."""
    lines: list[str] = []
    for block in document.answer:
        lines += _block(block, most)
    for section in document.sections:
        shown = [line for block in section.blocks for line in _block(block, most)]
        if shown:
            lines += [f"## {clean(section.title)}", "", *shown]
    return "\n".join(lines).rstrip("\n") + "\n"


def _block(block: Block, most: int | None) -> Iterator[str]:
    """A block's lines, the last of them empty."""
    match block:
        case Paragraph():
            yield " ".join(filter(None, [f"**{clean(block.lead)}**" if block.lead else "", clean(block.text)]))
        case Answers():
            for one in block.answers:
                yield f"- **{clean(f'{one.name} {one.text}')}**{f' ({clean(one.counts)})' if one.counts else ''}"
        case Items():
            yield from _details(block.title, block.items, most) if block.folded else _list(block, most)
        case Terms():
            yield from _details(block.title, [f"{term}: {text}" for term, text in block.terms], most)
        case Table():
            yield from _table(block, most)
        case Code():
            yield from (f"**{clean(block.title)}**", "", "```", *block.text.splitlines(), "```")
        case Heading():
            yield f"### {clean(block.text)}"
        case Figure():
            yield f"![{clean(block.plot.title)}](figures/{block.plot.name}.png)"
    yield ""


def _list(block: Items, most: int | None) -> Iterator[str]:
    if block.title:
        yield from (f"**{clean(block.title)}**", "")
    yield from _cut(block.items, most)


def _cut(items: Sequence[str], most: int | None) -> Iterator[str]:
    yield from (f"- {clean(item)}" for item in items[:most])
    if most is not None and len(items) > most:
        yield f"- ... and {len(items) - most} more in the page"


def _details(title: str, items: Sequence[str], most: int | None) -> Iterator[str]:
    yield from (f"<details><summary>{clean(title)}</summary>", "", *_cut(items, most), "", "</details>")


def _table(table: Table, most: int | None) -> Iterator[str]:
    if table.title:
        yield from (f"**{clean(table.title)}**", "")
    yield "| " + " | ".join(clean(column.name) for column in table.columns) + " |"
    yield "|" + "|".join("---:" if column.number else "---" for column in table.columns) + "|"
    yield from ("| " + " | ".join(clean(cell.text) for cell in row.cells) + " |" for row in table.rows[:most])
    left = f"... and {len(table.rows) - most} more in comparisons.csv" if most and len(table.rows) > most else ""
    for text in (left or table.left_out, table.note):
        if text:
            yield from ("", clean(text))


def clean(text: str) -> str:
    """Text escaped so that nothing in it is Markdown or HTML."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in line)


def _markdown(analysis: Analysis) -> str:
    document = answer.build(analysis)
    notes = Items("How this was obtained", tuple(words.how_obtained(analysis)))
    return to_markdown(Document(document.title, (*document.answer, answer.compact_table(analysis), notes)))


def _latex(analysis: Analysis) -> str:
    return to_latex(answer.compact_table(analysis), words.how_obtained(analysis), words.also_differ(analysis))


WRITERS: Final[dict[str, Callable[[Analysis], str]]] = {"csv": to_csv, "markdown": _markdown, "latex": _latex}
