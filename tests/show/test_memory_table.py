"""Memory as predicted beside memory as measured, and what explains a ratio of 28."""

from __future__ import annotations

import json
from pathlib import Path

from raybench.analysis import analyse
from raybench.show import memory_table
from raybench.show.answer import build
from raybench.show.tables import to_markdown
from tests.analysis.ledgers import paired, write
from tests.conftest import ROOT

MIB = 2**20
PREDICTED = {"parameters": 100 * MIB, "gradients": 100 * MIB, "optimizer_state": 200 * MIB, "activations": 100 * MIB,
             "device": 500 * MIB, "host": 0}  # fmt: skip
HELD = {"parameters": [100 * MIB], "gradients": [100 * MIB], "optimizer_state": [200 * MIB], "activations": [180 * MIB]}


def rows(folder: Path, **columns: object) -> list[dict[str, str]]:
    facts = {"informative": {"predicted_memory": PREDICTED}}
    ledger = paired([1.0, 1.1], facts=facts, memory_parts=json.dumps(HELD), **columns)
    table = memory_table.prediction_table(analyse([write(folder / "legs.parquet", ledger)]))
    assert table is not None
    names = [column.name for column in table.columns]
    return [dict(zip(names, [cell.text for cell in row.cells], strict=True)) for row in table.rows]


def test_on_a_device_the_peak_stands_beside_the_sum(tmp_path: Path) -> None:
    base, arm = rows(tmp_path, peak_device_bytes=700 * MIB)
    assert (base["arm"], arm["arm"]) == ("ddp", "zero1")
    assert (arm["predicted"], arm["measured"], arm["apart"]) == ("500.0 MiB", "700.0 MiB", "+40 %")
    assert (arm["because of"], arm["activations"]) == ("activations", "100.0 MiB / 180.0 MiB")


def test_on_a_cpu_the_parts_are_added_up(tmp_path: Path) -> None:
    _, arm = rows(tmp_path, peak_device_bytes=None)
    assert (arm["predicted"], arm["measured"], arm["apart"]) == ("500.0 MiB", "580.0 MiB", "")  # by 16 %


def test_without_a_prediction_there_is_no_table(tmp_path: Path) -> None:
    assert memory_table.prediction_table(analyse([write(tmp_path / "legs.parquet", paired([1.0, 1.1]))])) is None


def test_the_shipped_result_names_what_takes_28_times_the_memory() -> None:
    analysis = analyse([ROOT / "results" / "paper" / "h200"])
    lenet = next(c for c in analysis.comparisons if c.where.setting == "lenet synthetic b64 bf16 w1")
    assert round(lenet.memory.ratio.value or 0) == 28
    grown = -(lenet.memory.saved.value or 0)
    assert lenet.treated.bucket_bytes == 2_000_000_000
    assert abs(grown - lenet.treated.bucket_bytes) < 0.02 * grown
    text = " ".join(to_markdown(build(analysis)).split())
    assert "ZeRO's communication buckets are 1.86 GiB of the peak of deepspeed" in text
