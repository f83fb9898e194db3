"""Writes a report: one page, the figures as SVG, PNG and PDF, a summary, the table as CSV."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from raybench.analysis import Analysis
from raybench.errors import UserError
from raybench.show import answer, findings
from raybench.show.document import Document, Figure, Items
from raybench.show.figures import components, diagnostics, speedups, step_parts
from raybench.show.figures.learning import learning
from raybench.show.figures.series import Steps, read_steps
from raybench.show.figures.style import add_note, drawing, on_white, save, settle
from raybench.show.page import render_page
from raybench.show.plot import Plot
from raybench.show.tables import MOST_ROWS, to_csv, to_markdown
from raybench.show.words import also_differ, how_obtained
from raybench.stores.storage import AnyPath
from raybench.version import __version__

KINDS: Final = ("svg", "png", "pdf")


def draw_all(analysis: Analysis, steps: Steps) -> list[Plot]:
    """Every figure that the analysis has data for, in page order."""
    with drawing():
        plots = (
            speedups.arms(analysis),
            speedups.heat_map(analysis),
            speedups.forest(analysis),
            speedups.distribution(analysis),
            components.profile(analysis),
            step_parts.parts(analysis),
            diagnostics.phases(analysis, steps),
            learning(analysis, steps.curves),
            components.memory_and_speed(analysis),
            components.ladder(analysis),
            components.scaling(analysis),
            diagnostics.traces(analysis, steps),
            diagnostics.order_and_drift(analysis),
            diagnostics.failures(analysis),
        )
        drawn = [plot for plot in plots if plot is not None]
        for plot in drawn:
            settle(plot.figure)
        return [_noted(plot, also_differ(analysis)) for plot in drawn]


def _noted(plot: Plot, notes: Sequence[str]) -> Plot:
    """The plot with notes for its reader, both in the figure, which may be shown alone, and in its caption."""
    if not notes:
        return plot
    note = f"{'; '.join(notes)}."
    add_note(plot.figure, note)
    return replace(plot, caption=f"{plot.caption} {note[:1].upper()}{note[1:]}")


def summary(document: Document, analysis: Analysis, plots: Sequence[Plot]) -> str:
    """The report for a pull request, in GitHub's Markdown: the answer, a figure, the table; the rest is folded."""
    first = [Figure(plot) for plot in plots if plot.name in ("arms", "forest")][:1]
    failed = [
        f"{one.arm}: {one.kind}, {one.num_legs} legs in {one.places}: {one.message}"
        for one in findings.failures(analysis)
    ]
    warned = [f"{one.text} ({one.places})" for one in findings.caveats(analysis)]
    folded = [
        Items(f"{title} ({len(items)})", tuple(items), folded=True)
        for title, items in (
            ("Failures", failed),
            ("Caveats", warned),
            ("How this was obtained", how_obtained(analysis)),
        )
        if items
    ]
    blocks = (*document.answer, *first, answer.compact_table(analysis), *folded)
    return to_markdown(Document(document.title, blocks), most=MOST_ROWS)


def write_report(analysis: Analysis, paths: Sequence[AnyPath], folder: AnyPath, *, title: str = "") -> list[AnyPath]:
    """Write the report of an analysis of the ledgers at `paths` into `folder`; returns the files, the page first.

    Raises UserError where the folder cannot be written.
    """
    plots = draw_all(analysis, read_steps(paths, analysis))
    files: dict[str, bytes] = {}
    for plot in plots:
        for kind in KINDS:
            files[f"figures/{plot.name}.{kind}"] = save(plot.figure, kind)
    drawings = {plot.name: files[f"figures/{plot.name}.svg"].decode() for plot in plots}
    files |= {f"figures/{name}.svg": on_white(drawing).encode() for name, drawing in drawings.items()}
    document = answer.build(analysis, paths, plots, title)
    files = {
        "report.html": render_page(document, drawings).encode(),
        "summary.md": summary(document, analysis, plots).encode(),
        "comparisons.csv": to_csv(analysis).encode(),
        **files,
    }
    files["report.json"] = _stored(analysis, [_beside(path, paths[0]) for path in paths], files)
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written there ({error.strerror}); give out=FOLDER") from None
    return [folder / name for name in files]


def _beside(path: AnyPath, first: AnyPath) -> str:
    """A ledger's path from the folder that the first one is in: its name, where both are in one folder."""
    if isinstance(path, Path) and isinstance(first, Path):
        return Path(os.path.relpath(path, first.parent)).as_posix()
    return path.name


def _stored(analysis: Analysis, ledgers: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """The report's analysis, and the SHA-256 of each of its files, for `raybench.verify`."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    found = {**analysis.to_json(), "ledgers": list(ledgers)}
    stored = {"raybench": __version__, "analysis": found, "sha256": hashes}
    return (json.dumps(stored, allow_nan=False, indent=1) + "\n").encode()
