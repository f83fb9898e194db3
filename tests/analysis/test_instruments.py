"""What the instruments' columns become: caveats, other verdicts, percentiles, work."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import Analysis, Comparison, analyse
from raybench.machine.peaks import datasheet_tflops
from raybench.show.words import memory_held, work_done
from raybench.statistics.estimate import plain
from tests.analysis.ledgers import leg, paired, texts, write

HOG = "foreign CPU use"
QUIET = [1.101, 1.099, 1.1, 1.102, 1.098, 1.1]


def of(tmp_path: Path, rows: list[dict[str, Any]], **question: Any) -> tuple[Analysis, Comparison]:
    analysis = analyse([write(tmp_path / "legs.parquet", rows)], **question)
    (comparison,) = analysis.comparisons
    return analysis, comparison


def test_contaminated_legs_are_counted_with_their_reasons_and_judged_without(tmp_path: Path) -> None:
    rows = paired([*QUIET, 0.6], contaminated=[])
    rows[-1] |= {"contaminated": [HOG, "GPU clock drop"]}  # the arm's leg of the trial that went wrong
    rows[-2] |= {"contaminated": [HOG]}
    _, found = of(tmp_path, rows)
    assert found.verdict == "undecided"  # one hog widens the interval; it turns nothing
    assert found.speedup.low is not None
    assert found.speedup.low < 0.95
    assert "2 of 14 legs are contaminated: GPU clock drop in 1, foreign CPU use in 2" in texts(found)
    clean = {other.kind: other for other in found.sensitivity}["clean legs only"]
    assert clean.verdict == "helps"
    assert clean.speedup == pytest.approx(1.1, abs=1e-3)
    assert "with the clean legs only the verdict would be 'helps'" in texts(found)


def test_where_every_leg_is_contaminated_nothing_is_claimed_of_the_rest(tmp_path: Path) -> None:
    _, found = of(tmp_path, paired(QUIET, contaminated=[HOG]))
    assert found.verdict == "helps"
    assert "12 of 12 legs are contaminated: foreign CPU use in 12" in texts(found)
    assert "with clean legs only no trial would be left" in texts(found)


@pytest.mark.parametrize("contaminated", [[], None])
def test_clean_legs_and_legs_of_which_nothing_is_known_give_no_caveat(tmp_path: Path, contaminated: Any) -> None:
    _, found = of(tmp_path, paired(QUIET, contaminated=contaminated))
    assert not [caveat for caveat in texts(found) if "contaminated" in caveat]
    assert [other.kind for other in found.sensitivity] == ["median step"]


def test_trials_that_shared_a_node_are_told_of(tmp_path: Path) -> None:
    _, found = of(tmp_path, paired(QUIET, slots_per_node=2))
    assert any(caveat.startswith("up to 2 trials shared a node (slots_per_node)") for caveat in texts(found))
    _, alone = of(tmp_path, paired(QUIET, slots_per_node=1))
    assert not any("shared a node" in caveat for caveat in texts(alone))


def test_missing_instruments_are_named_once_for_the_whole_analysis(tmp_path: Path) -> None:
    rows = paired(QUIET, missing_instruments=["GPU energy (Not Supported)"])
    rows[0] |= {"missing_instruments": ["telemetry (the sampler's process died)"]}
    analysis, _ = of(tmp_path, rows)
    assert texts(analysis) == (
        "instruments that were not there: GPU energy (Not Supported), telemetry (the sampler's process died)",
    )


def test_skipped_steps_and_nodes_that_are_not_alike_are_said(tmp_path: Path) -> None:
    rows = paired(QUIET, environment={"gpu": "H100", "differences": {"b": {"driver": "570", "nccl": "2.26"}}})
    for row in rows[1::2]:
        row["skipped_steps"] = 2
    _, found = of(tmp_path, rows)
    assert "zero1 passed over 2 optimizer steps a leg, whose gradients had overflowed" in texts(found)
    assert "the nodes of a trial are not alike: b in driver, nccl" in texts(found)


def test_percentiles_are_those_of_the_measured_steps(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    steps = draw.lognormal(0, 0.2, (3, 41))
    rows = [leg(arm, t, seconds=[9.0, *steps[t]]) for t in range(3) for arm in ("ddp", "zero1")]
    _, found = of(tmp_path, rows)
    by_hand = np.exp(np.log(np.percentile(steps, [50, 90, 99], axis=1)).mean(axis=1))
    arm = (found.treated.step_p50_seconds, found.treated.step_p90_seconds, found.treated.step_p99_seconds)
    assert arm == pytest.approx(tuple(by_hand))
    base = (found.baseline.step_p50_seconds, found.baseline.step_p90_seconds, found.baseline.step_p99_seconds)
    assert base == arm


def test_who_holds_memory_is_said_where_it_differs(tmp_path: Path) -> None:
    mebibyte = 2**20
    rows = paired(QUIET)
    for row in rows:
        state = [60 * mebibyte, 61 * mebibyte] if row["arm"] == "zero1" else [120 * mebibyte] * 2
        parts = {"parameters": [60 * mebibyte] * 2, "optimizer_state": state, "offloaded": [None, None]}
        row["memory_parts"] = json.dumps(parts)
    _, found = of(tmp_path, rows)
    assert found.treated.memory_parts == {"parameters": 60 * mebibyte, "optimizer_state": 61 * mebibyte}
    assert memory_held(found) == "zero1 in net s0: a rank holds optimizer state 61.0 MiB against 120.0 MiB"
    _, found = of(tmp_path, paired(QUIET))
    assert memory_held(found) is None


def test_work_is_three_forward_passes_and_the_peak_says_whose_it_is(tmp_path: Path) -> None:
    facts = {"flops_per_image": 2e9}
    rows = paired(
        [2.0] * 3, base=0.5, facts=facts, environment={"gpu": "NVIDIA H100 80GB HBM3"}, precision="bf16",
        samples_per_step=1000, global_batch=1000, micro_batch=500,
    )  # fmt: skip
    _, found = of(tmp_path, rows)
    assert found.flops_per_sample == 6e9
    assert found.baseline.tflops == pytest.approx(6e9 * 1000 / 0.5 / 1e12)
    assert found.treated.tflops == pytest.approx(6e9 * 1000 / 0.25 / 1e12)
    assert found.treated.peak_share == pytest.approx(24 / (2 * 989.5))  # two workers
    assert found.peak == "NVIDIA H100 80GB HBM3, bf16 dense, 989.5 TFLOP/s by its datasheet"
    sides = "24 TFLOP/s (1.2 % of the peak) against 12 TFLOP/s (0.6 % of the peak)"
    assert work_done(found) == f"zero1 in net s0: {sides}; the peak is {found.peak}"
    json.dumps(analyse([tmp_path]).to_json(), allow_nan=False)


def test_tokens_a_second_and_both_peaks(tmp_path: Path) -> None:
    facts = {"training_flops_per_sample": 5e11}
    rows = paired(
        [2.0] * 3, base=0.5, facts=facts, environment={"gpu": "NVIDIA H100 80GB HBM3"}, precision="bf16",
        tokens_per_step=8 * 512, matmul_tflops=600.0,
    )  # fmt: skip
    _, found = of(tmp_path, rows)
    assert found.baseline.tokens_per_second == pytest.approx(8 * 512 / 0.5)
    assert found.treated.tokens_per_second == pytest.approx(8 * 512 / 0.25)
    assert found.treated.tflops == pytest.approx(5e11 * 8 / 0.25 / 1e12)
    assert found.treated.peak_share == pytest.approx(16 / (2 * 989.5))  # two workers
    assert found.treated.matmul_share == pytest.approx(16 / (2 * 600))
    told = work_done(found) or ""
    assert "16,384 tokens/s, 16 TFLOP/s (0.8 % of the peak, 1.3 % of a matrix product) against 8,192 tokens/s" in told
    assert plain(found)["arm_tokens_per_second"] == found.treated.tokens_per_second
    _, images = of(tmp_path, paired([2.0] * 3))
    assert (images.treated.tokens_per_second, images.treated.matmul_share) == (None, None)


def test_without_a_datasheet_the_measured_peak_stands_and_says_so(tmp_path: Path) -> None:
    rows = paired([1.0] * 2, facts={"flops_per_image": 1e8}, environment={"cpu": "EPYC"}, matmul_tflops=0.05)
    _, found = of(tmp_path, rows)
    assert found.treated.peak_share == pytest.approx(3e8 * 8 / 1e12 / (0.05 * 2))
    assert found.peak == "a fp32 matrix product, 0.05 TFLOP/s a worker as measured"
    _, found = of(tmp_path, paired([1.0] * 2, facts={"flops_per_image": 1e8}, environment={"cpu": "EPYC"}))
    assert (found.treated.peak_share, found.peak) == (None, None)
    assert found.treated.tflops is not None
    _, found = of(tmp_path, paired([1.0] * 2))
    assert (found.flops_per_sample, found.treated.tflops) == (None, None)
    assert work_done(found) is None


def test_each_side_is_held_against_the_peak_of_its_own_precision(tmp_path: Path) -> None:
    facts, environment = {"training_flops_per_sample": 5e11}, {"gpu": "NVIDIA H100 80GB HBM3"}
    rows = paired(
        [2.0] * 3, base=0.5, facts=facts, environment=environment, matmul_tflops=50.0, differs='["precision"]'
    )
    for row in rows:
        if row["arm"] == "zero1":
            row |= {"precision": "bf16", "matmul_tflops": 600.0}
    _, found = of(tmp_path, rows)
    assert found.baseline.peak_share == pytest.approx(8 / (2 * 67))
    assert found.baseline.matmul_share == pytest.approx(8 / (2 * 50))
    assert found.treated.peak_share == pytest.approx(16 / (2 * 989.5))
    assert found.treated.matmul_share == pytest.approx(16 / (2 * 600))
    arm, _, base = (found.peak or "").partition("; baseline: ")
    assert (arm.startswith("arm: "), "bf16 dense, 989.5" in arm, "fp32 dense, 67" in base) == (True, True, True)
    old = [{**row, "environment": json.dumps({"gpu": "Tesla T4"}), "matmul_tflops": None} for row in rows]
    assert of(tmp_path, old)[1].peak == "baseline: Tesla T4, fp32 dense, 8.1 TFLOP/s by its datasheet"


@pytest.mark.parametrize(
    ("gpu", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100 80GB PCIe", "tf32", 156.0),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("Tesla T4", "fp16", 65.0),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA A10G", "bf16", None),  # another chip than A10, without a datasheet of its own
        ("NVIDIA L4", "fp32", 30.3),
        ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "fp16", 989.5),
        ("NVIDIA B200", "bf16", 2250.0),
        ("NVIDIA GeForce RTX 4090", "bf16", None),
    ],
)
def test_datasheets_are_of_the_gpu_that_the_driver_names(gpu: str, precision: str, tflops: float | None) -> None:
    assert datasheet_tflops(gpu, precision) == tflops
    assert tflops is None or math.isfinite(tflops)
