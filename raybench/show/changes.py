"""A comparison of two ledgers for people: how many speedups changed, then which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raybench.analysis import Analysis
from raybench.analysis.views.changes import VERDICTS, Change
from raybench.show import units, words
from raybench.show.document import Cell, Document, Paragraph, Section, Table, columns, row


def build(a: Analysis, b: Analysis, found: Sequence[Change], margin: float) -> Document:
    """The document: the answer in words, one row per change, sorted by verdict, and where both ledgers came from."""
    rows = []
    for c in sorted(found, key=lambda c: VERDICTS.index(c.verdict)):
        sides = [
            units.ratio(value) or verdict or ""
            for value, verdict in ((c.before, c.before_verdict), (c.after, c.after_verdict))
        ]
        rows.append(
            row(
                c.setting, c.arm, Cell(c.verdict, verdict=c.verdict), *sides, units.ratio(c.change),
                units.between(c.verdict_low, c.verdict_high), units.ratio(c.raw_change),
                units.between(c.raw_low, c.raw_high), f"{c.before_trials}, {c.after_trials}",
            )
        )  # fmt: skip
    numbers = ("A", "B", "change", "interval", "raw", "raw interval", "n")
    table = Table(
        "changes",
        "Change of the speedup, B over A",
        columns("setting", "arm", "verdict", *numbers, numbers=numbers),
        tuple(rows),
        note=f"The interval is the one that the verdict came from, {words.multiplicity(a)}-corrected over all changes. "
        f"Raw is the change of the arm's own time, above 1 where it is faster in B: what moved {a.baseline} alike is "
        "in it, so it has no verdict.",
    )
    sources = [
        Paragraph(
            f"{', '.join(one.ledgers)} ({'; '.join((*one.sweeps, *one.hardware, *one.versions))})", lead=f"{name}:"
        )
        for name, one in (("A", a), ("B", b))
    ]
    answer = (Paragraph(in_words(found, margin), strong=True),)
    return Document("What changed", answer, (Section("changes", "Changes", (table, *sources)),))


def in_words(found: Sequence[Change], margin: float) -> str:
    """A sentence: how many got better or worse or stayed, and which appeared or disappeared."""
    tally = Counter(change.verdict for change in found)
    names = {
        "helps": "got better", "hurts": "got worse", "no effect": f"did not change beyond {units.percent(margin)}",
        "undecided": "are undecided", "gained": "run now", "lost": "no longer run", "appeared": "appeared",
        "disappeared": "disappeared", "not comparable": "are not comparable", "unchanged": "stayed without a number",
    }  # fmt: skip
    parts = [f"{tally[verdict]} {names[verdict]}" for verdict in VERDICTS if tally[verdict]]
    if found and all(change.same_legs for change in found):
        return f"A and B hold the same legs: nothing changed in {units.count(len(found), 'comparison')}."
    if not found:
        return "The ledgers hold nothing to compare."
    return f"Of {units.count(len(found), 'comparison')}, {', '.join(parts)}."
