"""The table of comparisons for other programs: CSV, Markdown, LaTeX (booktabs). The same rows in each.

CSV holds every number in full; Markdown and LaTeX hold what a reader needs, rounded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from raybench.analysis.estimate import flatten
from raybench.analysis.results import Analysis, Comparison
from raybench.show.terminal import cost, how_obtained
from raybench.show.words import also_differ, answer_in_words

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
    names = list(Comparison.COLUMNS)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for comparison in analysis.comparisons:
        writer.writerow(map(_cell, flatten(comparison).values()))
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, tuple):
        return "; ".join(map(_part, value))
    if isinstance(value, dict):
        return "; ".join(f"{key}={item}" for key, item in value.items())
    return _defused(value) if isinstance(value, str) else value


def _part(value: object) -> str:
    if isinstance(value, str):
        return value
    return " ".join(f"{f.name}={getattr(value, f.name)}" for f in fields(value))  # type: ignore[arg-type]


def _defused(text: str) -> str:
    """A text that a spreadsheet would run as a formula, made plain."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def to_markdown(analysis: Analysis) -> str:
    """The answer in words, the table, and how it was obtained, in GitHub's Markdown."""

    def clean(cell: str) -> str:
        return " ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

    header, rows = table_rows(analysis)
    lines = [clean(answer_in_words(analysis)), ""]
    lines.append("| " + " | ".join(map(clean, header)) + " |")
    lines.append("|" + "|".join("---" if i < 3 else "---:" for i in range(len(header))) + "|")
    lines += ["| " + " | ".join(map(clean, row)) + " |" for row in rows]
    notes = (*also_differ(analysis), *analysis.caveats, *how_obtained(analysis))
    lines += ["", *(f"- {clean(line)}" for line in notes)]
    return "\n".join(lines) + "\n"


def to_latex(analysis: Analysis) -> str:
    """A `tabular` with booktabs rules, to be \\input into a paper."""

    def clean(cell: str) -> str:
        return "".join(_LATEX.get(character, character) for character in " ".join(cell.split()))

    header, rows = table_rows(analysis)
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {' '.join(line.split())}" for line in how_obtained(analysis)),
        rf"\begin{{tabular}}{{lll{'r' * (len(header) - 3)}}}",
        r"\toprule",
        " & ".join(map(clean, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(clean, row)) + r" \\" for row in rows),
        *(rf"\multicolumn{{{len(header)}}}{{l}}{{{clean(line)}}} \\" for line in also_differ(analysis)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def table_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Header and rows for reading; the interval is the one that the verdict came from."""
    header = ["setting", "arm", "verdict", "speedup", "interval", "n", analysis.baseline, "arm's", "memory", "failed"]
    rows = []
    for c in analysis.comparisons:
        interval = (
            ""
            if c.judgement.interval.low is None
            else f"{c.judgement.interval.low:.3f} to {c.judgement.interval.high:.3f}"
        )
        rows.append(
            [
                c.where.setting,
                c.arm,
                c.verdict,
                "" if c.speedup.value is None else f"{c.speedup.value:.3f}",
                interval,
                str(c.n_trials),
                cost(c.baseline.seconds, c.seconds_per),
                cost(c.treated.seconds, c.seconds_per),
                "" if c.memory.ratio.value is None else f"{c.memory.ratio.value:.2f}",
                str(c.failures),
            ]
        )
    return header, rows


WRITERS: Final[dict[str, Callable[[Analysis], str]]] = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex}
