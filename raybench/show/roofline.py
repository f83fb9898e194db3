"""Rooflines as a table: a step's minimum time on this machine, and how close each arm comes to it."""

from __future__ import annotations

from typing import Final

from raybench.analysis import Analysis
from raybench.analysis.views.roofline import Roofline
from raybench.show import units
from raybench.show.document import Cell, Table, columns, row

_MOST_ROWS: Final = 200


def table(analysis: Analysis) -> Table | None:
    """A row for each arm in each setting; None where the ledger holds neither rates nor energy."""
    shown = analysis.rooflines[:_MOST_ROWS]
    if not shown:
        return None
    heads = ("step", "floor", "share", "energy a sample")
    rows = [
        row(
            one.setting,
            one.arm,
            _cell(one.step_seconds, units.cost(one.step_seconds, "step")),
            _cell(one.floor_seconds, units.cost(one.floor_seconds, "step")),
            _bound(one),
            _cell(one.floor_share, "" if one.floor_share is None else units.percent(one.floor_share)),
            _cell(one.joules_per_sample, "" if one.joules_per_sample is None else f"{one.joules_per_sample:.3g} J"),
        )
        for one in shown
    ]
    names = columns("setting", "arm", "step", "floor", "set by", "share", "energy a sample", numbers=heads,
                    folds=("setting",))  # fmt: skip
    return Table(
        "roofline",
        "How near a step is to what the machine can do",
        names,
        tuple(rows),
        note="Floor: the longer of the step's operations at the rate of the matrix product, and the least bytes of "
        "weights, gradients and optimizer states at the rate of the copy, that the workers reached here; activations "
        "are left out. Share: the floor's, of the arm's step. Energy: of the GPUs in the measured steps.",
    )


def _bound(one: Roofline) -> str:
    if one.floor_seconds is None:
        return ""
    return "operations" if one.floor_seconds == one.compute_seconds else "memory"


def _cell(value: float | None, text: str) -> Cell:
    return Cell(text, "" if value is None else repr(value))
