"""Links: what collectives carry between ranks, measured in one process that stands for them, and told beside an arm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raybench.analysis import analyse
from raybench.show import sections
from raybench.training.node import link_rates
from raybench.training.ranks import Ranks
from tests.analysis.ledgers import leg, paired, write


def test_one_process_without_an_accelerator_has_no_link() -> None:
    assert link_rates.measured_links(Ranks(0, 1, torch.device("cpu"), None)) is None


def test_collectives_are_measured_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_rates, "BYTES", (1 << 10, 1 << 16))
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        room = link_rates._buffers(Ranks(0, 1, torch.device("cpu"), None))
        # Of one rank nothing crosses a link: the collectives are called as those of two are, for their arithmetic.
        calls = link_rates._calls(room, Ranks(0, 2, torch.device("cpu"), None))
        assert {name: share for name, (_, share) in calls.items()} == {
            "all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 0.5,
        }  # fmt: skip
        alone = Ranks(0, 1, torch.device("cpu"), None)
        found = link_rates._measured(calls["all_reduce"][0], 1 << 16, 1.0, alone)
        assert found.busbw == pytest.approx((1 << 16) / found.seconds)
    finally:
        dist.destroy_process_group()


def told(tmp_path: Path, facts: dict[str, Any], **columns: Any) -> list[str]:
    """The sentences of a ledger whose links carry 1 GB/s, but for a burst that a shaper lets through."""
    rates = {"all_reduce": [{"bytes": 1, "seconds": 1, "busbw": 9e9}, {"bytes": 2, "seconds": 1, "busbw": 1e9}]}
    profile = json.dumps({"parts": {"communication": 0.5, "optimizer": 0.5}, "links": {**rates, "missing": []}})
    rows = paired([1.0] * 3)
    rows += [leg(arm, 0, 9, profile=profile, profiled=True, facts=facts, **columns) for arm in ("ddp", "zero1")]
    return sections.explanations_in_words(analyse([write(tmp_path / "ledger.parquet", rows)]))


def test_the_least_that_a_step_must_wait_for_its_links(tmp_path: Path) -> None:
    facts = {"num_trainable_parameters": 100_000_000, "communication_dtype": "bfloat16", "parameter_dtype": "float32"}
    (line,) = [line for line in told(tmp_path, facts, workers=4) if line.startswith("ddp moves")]
    hidden = "communication that nothing hides takes 500 ms"
    assert line == f"ddp moves 300 MB or more a step over a link of 1 GB/s: at least 300 ms; {hidden}"
    lines = told(tmp_path, facts, workers=4, engine="deepspeed")  # gradients in 2 bytes, weights in 4
    assert f"zero1 moves 450 MB or more a step over a link of 1 GB/s: at least 450 ms; {hidden}" in lines
    assert not [line for line in told(tmp_path, {"num_trainable_parameters": 3}) if " moves " in line]
