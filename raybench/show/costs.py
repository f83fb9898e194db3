"""How the sweep's machine time was spent: the section behind `python -m raybench.analysis LEDGER --costs`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from raybench.analysis import Analysis
from raybench.analysis.views.costs import Costs
from raybench.show import units
from raybench.show.document import Block, Cell, Paragraph, Section, Table, columns, row

_MOST_VERDICTS: Final = 60
_PARTS: Final = {
    "measured steps": "measured_seconds",
    "warm-up": "warmup_seconds",
    "set-up of legs": "setup_seconds",
    "evaluation": "eval_seconds",
    "between legs": "between_seconds",
    "starts of processes": "start_seconds",
    "legs that failed": "failed_seconds",
}


def section(analysis: Analysis, price: float | None = None) -> Section:
    """Time, energy and (with the price of a machine's hour) money, and the cost of each verdict."""
    whole = *blocks(analysis, price), *_gaps(analysis.costs)
    return Section("costs", "Where the machine time went", whole)


def _gaps(costs: Costs) -> Iterator[Paragraph]:
    """How long blocks took to start, and what a leg takes besides its steps, set-up and evaluation."""
    if costs.num_between:
        each = units.cost(costs.between_seconds / costs.num_between, "leg")
        yield Paragraph(f"Between legs stand models, facts, hashes, checks, tear-down and rows: {each} a leg.")
    if starts := costs.block_starts:
        usual = units.cost(median(starts), "start")
        longest = f", at most {units.cost(max(starts), 'start')}" if len(starts) > 1 else ""
        of = units.count(len(starts), "block")
        yield Paragraph(f"From Ray Tune's choice of a block to its first leg: {usual}{longest} ({of}).")


def blocks(analysis: Analysis, price: float | None = None) -> Iterator[Block]:
    """The blocks of the section."""
    costs = analysis.costs
    money = "" if price is None else f", {units.money(price * costs.wall_seconds / 3600)} at {price:g} an hour"
    machines = units.count(costs.num_machines, "machine")
    energy = f"; GPUs in the measured steps: {units.energy(costs.energy_joules)}" if costs.energy_joules else ""
    yield Paragraph(f"{units.duration(costs.wall_seconds)} of {machines}{money}{energy}.", strong=True)
    rows = [
        row(name, Cell(units.duration(seconds), repr(seconds)), units.percent(seconds / costs.wall_seconds))
        for name, part in _PARTS.items()
        if (seconds := getattr(costs, part))
    ]
    if rows:
        names = columns("what for", "time", "share", numbers=("time", "share"))
        note = "From the ledger's timestamps; gaps of over 15 minutes and the start before the first leg are left out."
        yield Table("machine-time", "Machine time", names, tuple(rows), note=note)
    if costs.verdicts:
        yield _verdicts(analysis, costs, price)


def _verdicts(analysis: Analysis, costs: Costs, price: float | None) -> Table:
    verdicts = {(c.where.setting_id, c.arm): c.verdict for c in analysis.comparisons}
    energy, money = costs.energy_joules is not None, price is not None
    names = ["setting", "arm", "verdict", "machine time"] + ["energy"] * energy + ["money"] * money
    rows = []
    for one in sorted(costs.verdicts, key=lambda one: -one.machine_seconds)[:_MOST_VERDICTS]:
        verdict = verdicts.get((one.setting_id, one.arm), "")
        cells = [
            Cell(one.setting),
            Cell(one.arm),
            Cell(verdict, verdict=verdict),
            Cell(units.duration(one.machine_seconds), repr(one.machine_seconds)),
        ]
        if energy:
            cells.append(Cell(units.energy(one.energy_joules)))
        if price is not None:
            cells.append(Cell(units.money(price * one.machine_seconds / 3600)))
        rows.append(row(*cells))
    left = len(costs.verdicts) - len(rows)
    return Table(
        "verdict-costs",
        "What each verdict took: its arm's legs, and its share of the baseline's",
        columns(*names, numbers=("machine time", "energy", "money")),
        tuple(rows),
        left_out=f"{left:,} more took less" if left > 0 else "",
    )
