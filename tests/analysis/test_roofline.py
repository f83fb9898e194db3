"""A step's floor by hand: operations, bytes, each arm's share, joules a sample; and ledgers without them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from raybench.analysis import analyse
from raybench.show import sections
from raybench.training.node import peak
from raybench.training.node.peak import measured_copy
from raybench.training.ranks import Ranks
from tests.analysis.ledgers import paired, write

FACTS = {
    "training_flops_per_sample": 5e9, "num_parameters": 1_000_000, "num_trainable_parameters": 1_000_000,
    "parameter_dtype": "float32", "gradient_dtype": "float32",
}  # fmt: skip
STATES = json.dumps({"optimizer_state": [8_000_000, 8_000_000]})


def test_the_floor_is_the_longer_of_operations_and_bytes(tmp_path: Path) -> None:
    """8 samples and 2 workers: 2e10 operations each at 0.1 TFLOP/s; 8 + 4 + 8 MB at 10 GB/s."""
    rows = paired(
        [0.5] * 3, facts=FACTS, matmul_tflops=0.1, copy_bytes_per_second=1e10, memory_parts=STATES, energy_joules=80.0
    )
    found = analyse([write(tmp_path / "a.parquet", rows)])
    ddp, zero1 = found.rooflines
    assert (ddp.arm, zero1.arm) == ("ddp", "zero1")
    assert ddp.compute_seconds == pytest.approx(0.2)
    assert ddp.memory_seconds == pytest.approx(0.002)
    assert (ddp.floor_share, zero1.floor_share) == (pytest.approx(0.2), pytest.approx(0.1))
    assert zero1.floor_seconds == ddp.floor_seconds
    assert ddp.joules_per_sample == pytest.approx(80 / (8 * 2))  # two measured steps
    table = sections.roofline_table(found)
    assert table is not None
    assert [cell.text for cell in table.rows[1].cells] == [
        "net s0", "zero1", "2 s", "200 ms", "operations", "10 %", "5 J"
    ]  # fmt: skip
    assert found.to_json()["rooflines"][0] == asdict(ddp)
    slow = [{**row, "copy_bytes_per_second": 1e7} for row in rows]
    first, _ = analyse([write(tmp_path / "b.parquet", slow)]).rooflines
    assert first.floor_seconds == first.memory_seconds == pytest.approx(2.0)


def test_an_arm_of_another_precision_has_a_floor_of_its_own(tmp_path: Path) -> None:
    rates = {"matmul_tflops": 0.1, "copy_bytes_per_second": 1e10, "memory_parts": STATES}
    rows = paired([0.5] * 3, facts=FACTS, differs='["precision"]', **rates)
    for row in rows:
        if row["arm"] == "zero1":
            row |= {"precision": "bf16", "matmul_tflops": 0.8}
    ddp, zero1 = analyse([write(tmp_path / "a.parquet", rows)]).rooflines
    assert (ddp.compute_seconds, zero1.compute_seconds) == (pytest.approx(0.2), pytest.approx(0.025))


def test_without_rates_and_energy_there_is_no_table(tmp_path: Path) -> None:
    found = analyse([write(tmp_path / "a.parquet", paired([0.5] * 3, facts=FACTS, matmul_tflops=0.1))])
    assert found.rooflines == ()
    assert sections.roofline_table(found) is None
    rows = paired([0.5] * 3, energy_joules=80.0)  # energy alone
    (ddp, _) = analyse([write(tmp_path / "b.parquet", rows)]).rooflines
    assert (ddp.floor_seconds, ddp.floor_share, ddp.joules_per_sample) == (None, None, pytest.approx(5.0))


def test_a_copy_is_measured() -> None:
    rate = measured_copy(Ranks(0, 1, torch.device("cpu"), None))
    assert 1e7 < rate < 1e13


def test_the_call_that_loads_a_kernel_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_SECONDS", 0.0)  # a single measured call
    pauses = iter([0.3, 0.0])

    def work(*_: torch.Tensor) -> None:
        time.sleep(next(pauses))

    assert peak._best_seconds(work, [torch.ones(1)], Ranks(0, 1, torch.device("cpu"), None)) < 0.2
