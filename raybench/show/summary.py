"""The summary of a report in GitHub's Markdown, for a pull request: the answer, the table, caveats, failures."""

from __future__ import annotations

from collections.abc import Sequence

from raybench.analysis import Analysis
from raybench.show.figures.style import Plot
from raybench.show.findings import caveats, failures
from raybench.show.tables import table_rows
from raybench.show.terminal import how_obtained
from raybench.show.words import answer_in_words

MOST_ROWS = 40
_SPECIAL = "\\`*_{}[]|~#"


def to_summary(analysis: Analysis, plots: Sequence[Plot]) -> str:
    """The summary; long lists are cut and say so, the page and `comparisons.csv` hold the rest."""
    header, rows = table_rows(analysis)
    lines = [f"**{_clean(answer_in_words(analysis))}**", ""]
    if any(plot.name == "forest" for plot in plots):
        lines += ["![Speedup of every arm in every setting](figures/forest.png)", ""]
    lines.append("| " + " | ".join(map(_clean, header)) + " |")
    lines.append("|" + "|".join("---" if i < 3 else "---:" for i in range(len(header))) + "|")
    lines += ["| " + " | ".join(map(_clean, row)) + " |" for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines += ["", f"... and {len(rows) - MOST_ROWS} more in `comparisons.csv`."]
    failed = [
        f"{one.arm}: {one.kind}, {one.num_legs} legs in {one.places}: {one.message}" for one in failures(analysis)
    ]
    warned = [f"{one.text} ({one.places})" for one in caveats(analysis)]
    for title, items in (("Failures", failed), ("Caveats", warned), ("How this was obtained", how_obtained(analysis))):
        if not items:
            continue
        lines += ["", f"<details><summary>{title} ({len(items)})</summary>", ""]
        lines += [f"- {_clean(item)}" for item in items[:MOST_ROWS]]
        if len(items) > MOST_ROWS:
            lines.append(f"- ... and {len(items) - MOST_ROWS} more in the page")
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _clean(text: str) -> str:
    """Text as text: nothing in it is Markdown or HTML."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in line)
