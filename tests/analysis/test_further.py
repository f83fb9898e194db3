"""What else was measured: every quantity with a heading reaches the analysis."""

from __future__ import annotations

import json
from pathlib import Path

from raybench.analysis import analyse
from tests.analysis.ledgers import leg, write


def test_quantities_with_a_heading_are_means_over_the_legs_that_have_them(tmp_path: Path) -> None:
    rows = [
        leg("ddp", 0, energy_joules=10.0, accuracy_top5=0.5, eval_loss=1.5, peak_host_bytes_sum=2**31),
        leg("ddp", 1, energy_joules=30.0, allocation_retries=4, peak_host_bytes_sum=2**31),
        leg("zero1", 0, energy_joules=None),
    ]
    found = analyse([write(tmp_path / "x.parquet", rows)]).further
    assert {(one.arm, one.quantity): (one.mean, one.num_legs) for one in found} == {
        ("ddp", "accuracy_top5"): (0.5, 1),
        ("ddp", "eval_loss"): (1.5, 1),
        ("ddp", "peak_host_bytes_sum"): (2.0**31, 2),
        ("ddp", "allocation_retries"): (4.0, 1),
        ("ddp", "energy_joules"): (20.0, 2),
    }
    assert {one.unit for one in found if one.quantity == "energy_joules"} == {"J"}


def test_the_network_between_nodes_is_told_once(tmp_path: Path) -> None:
    def network(busbw: float) -> str:
        sizes = [{"bytes": 1 << 20, "busbw": 1.0}, {"bytes": 1 << 25, "busbw": busbw}]
        places = [{"node": "a", "interface": "eth1"}, {"node": "b", "interface": "eth0"}]
        return json.dumps({"backend": "nccl", "interfaces": places, "all_reduce": sizes})

    rows = [leg("ddp", 0, network=network(1e9)), leg("ddp", 1, network=network(3e9)), leg("ddp", 2, network="[]")]
    (found,) = analyse([write(tmp_path / "x.parquet", rows)]).networks
    assert (found.backend, found.interfaces, found.all_reduce_bytes) == ("nccl", ("eth0", "eth1"), 1 << 25)
    assert found.bus_bytes_per_second == 2e9
