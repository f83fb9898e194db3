"""The batch at which a fixed cost falls under the margin: ledgers whose truth is known, and how often it covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import analyse
from raybench.analysis.views.enough import enough
from raybench.show.sections import enough_in_words
from tests.analysis.ledgers import leg, write

MARGIN = 0.03
BATCHES = np.array([32.0, 128.0, 512.0])


def ledger(
    folder: Path, *, fixed: float = 0.004, share: float = 0.0, batches: Any = BATCHES, trials: int = 6,
    scatter: float = 0.001,
) -> Path:  # fmt: skip
    """A step of the baseline takes 3 ms and 0.2 ms a sample, one of the arm `fixed` and `share` of that more."""
    random, rows = np.random.default_rng(0), []
    for batch in batches:
        base = 0.003 + 0.0002 * batch
        for trial in range(trials):
            for arm, seconds in (("ddp", base), ("zero1", fixed + (1 + share) * base)):
                noise = float(np.exp(random.normal(0, scatter)))
                more = {"global_batch": int(batch), "samples_per_step": int(batch), "setting_id": f"s{batch:.0f}"}
                rows.append(
                    leg(arm, trial, seconds=seconds * noise, **more, setting=f"net digits b{batch:.0f} fp32 w2")
                )
    return write(folder / "ledger.parquet", rows)


def test_the_batch_is_found_with_the_fixed_cost(tmp_path: Path) -> None:
    found = analyse([ledger(tmp_path)])
    (one,) = found.enough_batches
    assert (one.setting, one.arm, one.batches) == ("net digits fp32 w2", "zero1", (32, 128, 512))
    truth = (0.004 / MARGIN - 0.003) / 0.0002
    assert one.batch.value == pytest.approx(truth, rel=0.1)
    assert 0.8 * truth < (one.batch.low or 0) < one.batch.value < (one.batch.high or 0) < 1.2 * truth
    assert one.fixed.value == pytest.approx(0.004, rel=0.05)
    (text,) = enough_in_words(found)
    assert text.startswith("zero1 in net digits fp32 w2: a fixed ")
    assert "within the margin of 3 % from a batch of about 6" in text
    assert "beyond those measured" in text
    (told,) = found.to_json()["enough_batches"]
    assert (told["batch"], told["fixed_seconds"], told["n_trials"]) == (one.batch.value, one.fixed.value, 6)


def test_what_grows_with_the_batch_beyond_the_margin_is_at_no_batch_within_it(tmp_path: Path) -> None:
    found = analyse([ledger(tmp_path, share=0.1)])
    (one,) = found.enough_batches
    assert (one.batch.value, one.batch.high) == (None, None)
    assert enough_in_words(found)[0].endswith("at no batch")


@pytest.mark.parametrize(
    "case",
    [
        {"batches": BATCHES[:1]},
        {"fixed": -0.001, "share": 0.2},
        {"trials": 1},
        {"fixed": 0.0, "share": -0.2},
    ],
)
def test_nothing_is_said_of_one_batch_nor_without_a_fixed_cost_or_repeats(tmp_path: Path, case: dict[str, Any]) -> None:
    assert analyse([ledger(tmp_path, scatter=1e-9, **case)]).enough_batches == ()


def test_batches_that_do_not_lie_on_a_line_are_left_alone() -> None:
    base = np.maximum(0.05, 0.0002 * BATCHES) * np.exp(np.random.default_rng(0).normal(0, 0.001, (6, 3)))
    assert enough(BATCHES, base, base + 0.004, MARGIN, 0.05) is None


@pytest.mark.parametrize("shared", [True, False], ids=["batches drift together", "batches drift apart"])
@pytest.mark.parametrize("trials", [2, 3, 8])
def test_the_interval_covers(trials: int, shared: bool) -> None:
    random, sweeps = np.random.default_rng(7), 1000
    truth, batches, covered = (0.004 / MARGIN - 0.003) / 0.0002, BATCHES[:2], 0
    base = 0.003 + 0.0002 * batches

    def noise(deviation: float, columns: int) -> np.ndarray:
        return random.normal(0, deviation, (trials, columns))

    for _ in range(sweeps):
        drift = noise(0.04, 1 if shared else 2)
        found = enough(
            batches,
            base * np.exp(drift + noise(0.012, 2)),
            (base + 0.004) * np.exp(drift + noise(0.015, 2)),
            MARGIN,
            0.05,
        )
        assert found is not None
        low, high = found[1].low, found[1].high
        covered += (np.inf if low is None else low) <= truth <= (np.inf if high is None else high)
    assert covered / sweeps == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / sweeps))
