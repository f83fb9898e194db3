"""What holds for every ledger: properties over generated ledgers, most of them incomplete."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.analysis import Analysis, analyse
from raybench.analysis.results import VERDICTS
from raybench.show.tables import WRITERS
from raybench.show.words import answer_in_words
from tests.analysis.ledgers import leg, write

ARMS = ("ddp", "zero1", "zero3")


@st.composite
def ledgers(draw: st.DrawFn, complete: bool = False) -> list[dict[str, Any]]:
    """Legs of up to 3 settings x 4 trials x 2 rounds x 3 arms; unless complete, some missing and some failed."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2)))
    generator = random.Random(draw(st.integers(0, 2**32)))
    rows = []
    for setting, trial, round_ in np.ndindex(*shape):
        for position, arm in enumerate(ARMS):
            fate = "ok" if complete else generator.choices(["ok", "failed", "missing"], [6, 2, 1])[0]
            steps = [generator.uniform(0.5, 2.0) for _ in range(generator.randint(3, 6))]
            columns: dict[str, Any] = {"setting_id": f"s{setting}", "position": position}
            if fate == "failed":
                columns["failure_kind"] = generator.choice(["crashed", "out_of_memory"])
            if fate != "missing":
                rows.append(leg(arm, trial, round_, steps, **columns))
    if not any(row["is_baseline"] for row in rows):
        rows.append(leg("ddp", 9))
    return rows


def judged(rows: list[dict[str, Any]], **question: Any) -> Analysis:
    with tempfile.TemporaryDirectory() as folder:
        return analyse([write(Path(folder) / "legs.parquet", rows)], **question)


@settings(max_examples=60, deadline=None)
@given(ledgers())
def test_whatever_is_missing_there_is_an_answer(rows: list[dict[str, Any]]) -> None:
    found = judged(rows)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["schema_version"] == 1
    for writer in WRITERS.values():
        writer(found)
    answer_in_words(found)
    for c in found.comparisons:
        legs = [row for row in rows if row["setting_id"] == c.where.setting_id and row["arm"] in (c.arm, "ddp")]
        assert c.failures == sum(row["status"] == "failed" for row in legs)
        assert (c.speedup.value is None) == (c.n_trials == 0)
        assert (c.speedup.low is None) == (c.n_trials < 2)
        if c.n_trials < len({row["trial_id"] for row in legs}):
            assert c.caveats, "a smaller sample must be told"
        if c.verdict == "unlocks":
            assert not any(row["status"] == "ok" for row in legs if row["arm"] == "ddp")
        if c.verdict == "blocked":
            assert not any(row["status"] == "ok" for row in legs if row["arm"] == c.arm)
    for arm in found.arms:
        assert sum(arm.tally[verdict] for verdict in VERDICTS) == arm.n_settings


@settings(max_examples=30, deadline=None)
@given(ledgers(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_repeated_rows_change_no_byte(rows: list[dict[str, Any]], shuffle: random.Random) -> None:
    mixed = [*rows, *shuffle.choices(rows, k=3)]
    shuffle.shuffle(mixed)
    one, other = ({**judged(version).to_json(), "ledgers": None} for version in (rows, mixed))
    assert json.dumps(one) == json.dumps(other)


@settings(max_examples=30, deadline=None)
@given(ledgers(complete=True), st.floats(1e-3, 1e3))
def test_scale_and_inversion(rows: list[dict[str, Any]], scale: float) -> None:
    one = {(c.where.setting_id, c.arm): c for c in judged(rows).comparisons}
    scaled = [{**row, "step_seconds": [scale * s for s in row["step_seconds"]]} for row in rows]
    for c in judged(scaled).comparisons:
        assert c.speedup.value == pytest.approx(one[c.where.setting_id, c.arm].speedup.value, rel=1e-12)
    for c in judged(rows, baseline="zero1").comparisons:
        if c.arm == "ddp":
            assert c.speedup.value * one[c.where.setting_id, "zero1"].speedup.value == pytest.approx(1.0, rel=1e-12)
            assert c.judgement.p_value == pytest.approx(one[c.where.setting_id, "zero1"].judgement.p_value)


@settings(max_examples=20, deadline=None)
@given(ledgers(complete=True), st.integers(2, 5))
def test_more_steps_and_ranks_of_the_same_are_no_more_samples(rows: list[dict[str, Any]], times: int) -> None:
    longer = []
    for row in rows:
        warmup, *measured = row["step_seconds"]
        longer.append({**row, "step_seconds": [warmup, *measured * times], "data_seconds": None, "workers": 64})
    for one, other in zip(judged(rows).comparisons, judged(longer).comparisons, strict=True):
        assert (one.n_trials, one.verdict) == (other.n_trials, other.verdict)
        if one.speedup.low is not None:
            assert (other.speedup.low, other.speedup.high) == pytest.approx(
                (one.speedup.low, one.speedup.high), rel=1e-9
            )
