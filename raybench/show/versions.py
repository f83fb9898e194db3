"""Versions of a library as a document: the table of versions by setting, and a sentence on each."""

from __future__ import annotations

from collections.abc import Sequence

from raybench.analysis.analysis import Analysis
from raybench.analysis.results import Comparison
from raybench.analysis.views.upgrade import SAME, VersionInSetting
from raybench.show import units
from raybench.show.document import Cell, Document, Paragraph, Section, Table, columns, row


def build(analysis: Analysis, versions: Sequence[VersionInSetting], arms: Sequence[str]) -> Document:
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
            for v in versions
        ),
        note=f"Above 1 the version is faster; against {analysis.baseline} what an upgrade does to both cancels. "
        "Training: losses and gradient norms of the first steps against the baseline's. Versions ran in processes of "
        "their own, each in its own environment, so that they scatter more than arms that share processes.",
    )  # fmt: skip
    answer = [Paragraph(_sentence(name, [v for v in versions if v.arm == name], arms[0])) for name in arms]
    return Document("Versions", tuple(answer), (Section("versions", "Versions", (table,)),))


def _speedup(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell("-")
    speedup, verdict = comparison.speedup, comparison.judgement.verdict
    if speedup.value is None:
        return Cell(verdict, verdict=verdict)
    interval = "" if speedup.low is None else f" ({units.between(speedup.low, speedup.high)})"
    return Cell(f"{units.ratio(speedup.value)}{interval} {verdict}", verdict=verdict)


def _sentence(name: str, versions: Sequence[VersionInSetting], first: str) -> str:
    """One version in words."""
    verdicts = [(v.against_first or v.against_baseline).judgement.verdict for v in versions]
    counts = ", ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
    parted = [v.training for v in versions if v.training.startswith("differs")]
    trained = f"; its training {parted[0]}" if parted else ""
    against = "the baseline" if name == first else first
    return f"{name} against {against}: {counts} of {units.count(len(versions), 'setting')}{trained}."
