"""The table of what else was measured: each quantity in its unit."""

from __future__ import annotations

import json
from pathlib import Path

from raybench.analysis import analyse
from raybench.show import sections
from raybench.show.document import Items, Table
from tests.analysis.ledgers import leg, write


def test_quantities_are_shown_in_their_units(tmp_path: Path) -> None:
    places = [{"node": "a", "interface": "eth0"}]
    network = {"backend": "nccl", "interfaces": places, "all_reduce": [{"bytes": 2**25, "busbw": 2.0**30}]}
    rows = [
        leg("ddp", energy_joules=1500.0, peak_host_bytes_sum=2**31, network=json.dumps(network)),
        leg("zero1", eval_loss=1.25),
    ]
    table, networks = sections.further_blocks(analyse([write(tmp_path / "x.parquet", rows)]))
    assert isinstance(table, Table)
    assert isinstance(networks, Items)
    names = [column.name for column in table.columns]
    shown = {row.cells[1].text: dict(zip(names, [cell.text for cell in row.cells], strict=True)) for row in table.rows}
    assert shown["ddp"]["energy of the measured steps"] == "1.5 kJ"
    assert shown["ddp"]["host memory of all ranks"] == "2.00 GiB"
    assert (shown["zero1"]["test loss"], shown["zero1"]["energy of the measured steps"]) == ("1.25", "")
    assert networks.items == ("nccl over eth0: an all-reduce of 32.0 MiB at 1.00 GiB/s (bus bandwidth)",)


def test_a_ledger_without_them_shows_nothing(tmp_path: Path) -> None:
    assert list(sections.further_blocks(analyse([write(tmp_path / "x.parquet", [leg("ddp"), leg("zero1")])]))) == []
