"""Other measured quantities: a table of those with a `report` heading in QUANTITIES, and the networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raybench.analysis import Analysis
from raybench.analysis.views.further import Further
from raybench.show import units
from raybench.show.document import Block, Cell, Items, Table, columns, row

_MOST_ROWS: Final = 200


def blocks(analysis: Analysis) -> Iterator[Block]:
    """A row per arm and setting, a column per quantity; then a line for each network between nodes."""
    headings = list(dict.fromkeys(one.heading for one in analysis.further))
    found: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for one in analysis.further:
        cells = found.setdefault((one.setting_id, one.setting, one.arm), {})
        cells[one.heading] = Cell(_text(one), repr(one.mean))
    if found:
        rows = [
            row(setting, arm, *(cells.get(heading, Cell("")) for heading in headings))
            for (_, setting, arm), cells in list(found.items())[:_MOST_ROWS]
        ]
        names = columns("setting", "arm", *headings, numbers=tuple(headings), folds=("setting",))
        yield Table("further", "What else was measured", names, tuple(rows), note="Means over the measured legs.")
    if analysis.networks:
        lines = [
            f"{one.backend} over {', '.join(one.interfaces)}: an all-reduce of {units.size(one.all_reduce_bytes)} "
            f"at {units.size(one.bus_bytes_per_second)}/s (bus bandwidth)"
            for one in analysis.networks
        ]
        yield Items("The network between nodes", tuple(lines))


def _text(one: Further) -> str:
    if one.unit == "bytes":
        return units.size(one.mean)
    if one.unit == "J":
        return units.energy(one.mean)
    return f"{one.mean:.3g} {one.unit}".strip()
