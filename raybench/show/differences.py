"""What differs, as documents: between two ledgers, and between versions of a library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raybench.analysis import Analysis, Comparison
from raybench.analysis.across.changes import VERDICTS, Change
from raybench.analysis.across.upgrade import SAME, VersionInSetting
from raybench.show import units, words
from raybench.show.document import Cell, Document, Paragraph, Section, Table, columns, row


def changes_document(a: Analysis, b: Analysis, found: Sequence[Change], margin: float) -> Document:
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
    answer = (Paragraph(changes_in_words(found, margin), strong=True),)
    return Document("What changed", answer, (Section("changes", "Changes", (table, *sources)),))


def changes_in_words(found: Sequence[Change], margin: float) -> str:
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


def versions_document(analysis: Analysis, found: Sequence[VersionInSetting], arms: Sequence[str]) -> Document:
    """The document of `raybench.versions`."""
    names = ("setting", "version", f"against {analysis.baseline}", f"against {arms[0]}", "training", "memory")
    table = Table(
        "versions", "By setting", columns(*names, folds=(names[0], names[2], names[3])),
        tuple(
            row(
                v.setting, v.arm, _speedup(v.against_baseline), _speedup(v.against_first),
                Cell(v.training, verdict="" if v.training == SAME else "hurts"),
                units.ratio(v.against_baseline.memory.ratio.value),
            )
            for v in found
        ),
        note=f"Above 1 the version is faster; against {analysis.baseline} what an upgrade does to both cancels. "
        "Training: losses and gradient norms of the first steps against the baseline's. Versions ran in processes of "
        "their own, each in its own environment, so that they scatter more than arms that share processes.",
    )  # fmt: skip
    answer = [Paragraph(_version(name, [v for v in found if v.arm == name], arms[0])) for name in arms]
    return Document("Versions", tuple(answer), (Section("versions", "Versions", (table,)),))


def _speedup(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell("-")
    speedup, verdict = comparison.speedup, comparison.judgement.verdict
    if speedup.value is None:
        return Cell(verdict, verdict=verdict)
    interval = "" if speedup.low is None else f" ({units.between(speedup.low, speedup.high)})"
    return Cell(f"{units.ratio(speedup.value)}{interval} {verdict}", verdict=verdict)


def _version(name: str, versions: Sequence[VersionInSetting], first: str) -> str:
    """One version in words."""
    verdicts = [(v.against_first or v.against_baseline).judgement.verdict for v in versions]
    counts = ", ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
    parted = [v.training for v in versions if v.training.startswith("differs")]
    trained = f"; its training {parted[0]}" if parted else ""
    against = "the baseline" if name == first else first
    return f"{name} against {against}: {counts} of {units.count(len(versions), 'setting')}{trained}."
