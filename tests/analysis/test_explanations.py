"""Profiled legs explain, and never count in a speedup."""

from __future__ import annotations

import json
from pathlib import Path

from raybench.analysis import analyse
from tests.analysis.ledgers import leg, paired, write


def profile(**parts: float) -> str:
    return json.dumps({"parts": parts, "trace": "x.json"})


def test_a_profiled_leg_explains_and_does_not_count(tmp_path: Path) -> None:
    rows = paired([0.5, 0.5, 0.5])
    plain = analyse([write(tmp_path / "a.parquet", rows)])
    assert plain.explanations == ()
    rows += [
        leg("ddp", 9, seconds=7.0, profile=profile(forward=1.0, optimizer=0.5)),
        leg("zero1", 9, seconds=9.0, profile=profile(forward=1.1, optimizer=0.4, gather=0.8)),
    ]
    found = analyse([write(tmp_path / "b.parquet", rows)])
    assert found.comparisons == plain.comparisons
    assert found.num_legs == plain.num_legs
    ddp, zero1 = found.explanations
    assert (ddp.arm, ddp.step_seconds, list(ddp.parts)) == ("ddp", 7.0, ["forward", "optimizer"])
    assert ddp.sentence == "ddp spends most of a step on forward: 1,000 ms"
    assert zero1.sentence == ("a step of zero1 takes 800 ms longer than one of ddp, most of it for gather: 800 ms more")
    keys = {"setting_id", "arm", "step_seconds", "parts", "sentence"}
    assert [set(one) for one in found.to_json()["explanations"]] == [keys, keys]
