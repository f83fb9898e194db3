"""Memory, accuracy, break-even, time to accuracy, ladders, profiles, scaling: by hand and against known truth."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from raybench.analysis import Analysis, analyse
from raybench.analysis.tradeoffs import repayment_interval
from raybench.analysis.views.ladder import Ladder
from raybench.analysis.views.scaling import welch_interval
from raybench.errors import UserError
from raybench.show.answer import build
from raybench.show.tables import WRITERS
from raybench.show.terminal import print_document
from raybench.show.words import answer_in_words, break_even, largest_in_words, rungs_in_words, trade_off
from raybench.statistics.inference import t_quantile
from tests.analysis.ledgers import leg, paired, texts, write

RATIOS = [0.62, 0.63, 0.61, 0.62]


def within_monte_carlo(rate: float, samples: int) -> bool:
    return abs(rate - 0.95) < 4 * np.sqrt(0.95 * 0.05 / samples)


def test_memory_for_speed_in_words(tmp_path: Path) -> None:
    rows = paired(RATIOS, "zero3")
    for number, row in enumerate(rows):
        row["peak_device_bytes"] = (5 if row["arm"] == "zero3" else 10) * 2**30 + number * 2**20
    c = analyse([write(tmp_path / "legs.parquet", rows)]).comparisons[0]
    assert c.memory.saved.value == pytest.approx(5 * 2**30 - 2**20)
    assert c.memory.saved.low == pytest.approx(c.memory.saved.high)
    assert c.memory.ratio.low < c.memory.ratio.value < c.memory.ratio.high
    assert trade_off(c) == (
        "zero3 costs 38 % [37, 39] of the throughput of net s0 and saves 5.00 GiB [5.00 GiB, 5.00 GiB] of device memory"
    )


@pytest.mark.parametrize(
    ("differences", "quality"),
    [
        ([0.0, 0.001, -0.001], "not worse"), ([-0.05, -0.051, -0.049], "worse"), ([-0.01, 0.0, -0.02], "unclear"),
        ([-0.001], "unclear"), ([0.2, 0.21, 0.19], "not worse"),
    ],
)  # fmt: skip
def test_quality_is_a_non_inferiority_test(tmp_path: Path, differences: list[float], quality: str) -> None:
    rows = paired([1.2, 1.21, 1.19][: len(differences)])
    for row in rows:
        row["accuracy"] = 0.7 + (differences[row["repeat"]] if row["arm"] == "zero1" else 0.0)
    analysis = analyse([write(tmp_path / "legs.parquet", rows)])
    c = analysis.comparisons[0]
    assert c.quality == quality
    assert ("it is less accurate than the baseline on 1 of 1" in answer_in_words(analysis)) == (quality == "worse")
    assert any(caveat.startswith("quality: ") for caveat in texts(c)) == (quality != "not worse")
    if len(differences) > 1:
        assert c.verdict == "helps"


def test_break_even_by_hand(tmp_path: Path) -> None:
    rows = paired([2.0, 2.0, 2.0])
    for row in rows:
        row["setup_seconds"] = 110.0 if row["arm"] == "zero1" else 10.0
    c = analyse([write(tmp_path / "legs.parquet", rows)]).comparisons[0]
    assert c.break_even.value == pytest.approx(100 / 0.5)
    assert c.break_even.low == pytest.approx(200)
    assert "repaid after 200 steps" in str(break_even(c))
    slow = analyse([write(tmp_path / "slow.parquet", rows)], baseline="zero1").comparisons[0]
    assert slow.break_even.value is None


def test_fiellers_interval_covers_and_is_unbounded_where_the_gain_is_not_shown() -> None:
    random, sweeps, n = np.random.default_rng(2), 20_000, 6
    for gain, spread in ((0.5, 0.1), (0.05, 0.1)):
        x = random.normal(20.0, 4.0, (sweeps, n))
        y = random.normal(gain, spread, (sweeps, n)) + 0.01 * (x - 20.0)
        t2 = float(t_quantile(n, 0.025)) ** 2 / n
        means = x.mean(axis=1), y.mean(axis=1)
        covariance = ((x - means[0][:, None]) * (y - means[1][:, None])).sum(axis=1) / (n - 1)
        variances = x.var(axis=1, ddof=1), y.var(axis=1, ddof=1)
        low, high = repayment_interval(*means, *(t2 * v for v in (*variances, covariance)))
        covered = (low <= 20.0 / gain) & (20.0 / gain <= high)
        if gain == 0.5:
            assert within_monte_carlo(float(covered.mean()), sweeps)
        else:  # one end may be let go to infinity, which can only cover more
            assert covered.mean() > 0.945
            assert np.isinf(high).mean() > 0.3


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize(
    ("extra", "gain", "truth"),
    [
        (-5.0, 1.0, 0.0), (-1.0, 0.02, 0.0), (-5.0, 0.001, 0.0), (-2.0, 0.0, 0.0), (0.3, 0.05, 6.0), (5.0, 1.0, 5.0),
        (2.0, -0.5, np.inf),
    ],
)  # fmt: skip
def test_repayment_holds_its_estimate_and_covers_whichever_side_starts_faster(
    n: int, extra: float, gain: float, truth: float
) -> None:
    random, sweeps = np.random.default_rng(5), 4000
    for correlation in (0.0, 0.7, -0.7):
        covariance = [[1.0, correlation * 0.1], [correlation * 0.1, 0.01]]
        x, y = np.moveaxis(random.multivariate_normal([extra, gain], covariance, (sweeps, n)), 2, 0)
        t2 = float(t_quantile(n, 0.025)) ** 2 / n
        xx, yy, xy = (
            x.var(axis=1, ddof=1),
            y.var(axis=1, ddof=1),
            (x * y).mean(axis=1) - x.mean(axis=1) * y.mean(axis=1),
        )
        mean_x, mean_y = x.mean(axis=1), y.mean(axis=1)
        low, high = repayment_interval(mean_x, mean_y, t2 * xx, t2 * yy, t2 * xy * n / (n - 1))
        assert ((low <= truth) & (truth <= high)).mean() > 0.95 - 4 * np.sqrt(0.05 * 0.95 / sweeps)
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = np.where(mean_x > 0, np.where(mean_y > 0, mean_x / mean_y, np.inf), 0.0)
        told = (mean_x > 0) | (mean_y >= 0)
        assert ((low <= estimate) & (estimate <= high))[told].all()


def test_memory_interval_covers(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    rows = []
    for setting in range(400):
        for trial in range(4):
            for arm, share in (("ddp", 1.0), ("zero1", 0.8)):
                peak = int(2**30 * share * np.exp(random.normal(0, 0.02)))
                rows.append(leg(arm, trial, setting_id=f"s{setting}", peak_device_bytes=peak))
    found = analyse([write(tmp_path / "legs.parquet", rows)]).comparisons
    covered = np.mean([c.memory.ratio.low < 0.8 < c.memory.ratio.high for c in found])
    assert within_monte_carlo(float(covered), len(found))


@pytest.mark.parametrize(("growth", "quality"), [(1.002, "not worse"), (1.05, "worse")])
def test_quality_of_a_language_model_is_its_held_out_loss(tmp_path: Path, growth: float, quality: str) -> None:
    rows = paired([1.2, 1.21, 1.19])
    for row in rows:
        row["eval_loss"] = 3.0 * (growth + 0.0001 * row["repeat"] if row["arm"] == "zero1" else 1.0)
    c = analyse([write(tmp_path / "legs.parquet", rows)]).comparisons[0]
    assert c.quality == quality
    assert any("held-out loss" in caveat for caveat in texts(c)) == (quality == "worse")


# ---- time to accuracy


def test_a_target_may_be_a_loss(tmp_path: Path) -> None:
    rows = paired([1.0, 1.0, 1.0], protocol=json.dumps({"kind": "train", "target_loss": 2.0}))
    for row in rows:
        row["epoch_seconds"] = [10.0, 10.0, 10.0]
        row["epoch_loss"] = [3.0, 1.9, 1.8] if row["arm"] == "zero1" else [3.0, 2.5, 2.0]
        row["epoch_accuracy"], row["eval_loss"] = [None, None, None], row["epoch_loss"][-1]
    found = analyse([write(tmp_path / "legs.parquet", rows)], metric="time_to_accuracy").comparisons[0]
    assert found.baseline.seconds == pytest.approx(30.0)
    assert found.treated.seconds == pytest.approx(20.0)


def printed(analysis: Analysis) -> str:
    text = io.StringIO()
    print_document(build(analysis), Console(file=text, width=200), full=True)
    return text.getvalue()


def test_time_to_accuracy_stops_at_the_first_epoch_that_reaches_the_target(tmp_path: Path) -> None:
    rows = paired([1.0, 1.0, 1.0], protocol=json.dumps({"kind": "train", "target_accuracy": 0.9}))
    for row in rows:
        row["epoch_seconds"] = [10.0, 10.0, 10.0, 10.0]
        row["epoch_accuracy"] = [0.5, 0.91, 0.89, 0.92] if row["arm"] == "zero1" else [0.5, 0.6, 0.7, 0.9]
    found = analyse([write(tmp_path / "legs.parquet", rows)], metric="time_to_accuracy").comparisons[0]
    assert found.baseline.seconds == pytest.approx(40.0)
    assert found.treated.seconds == pytest.approx(20.0)
    assert found.verdict == "helps"
    hint = "metric=time_to_accuracy compares"
    assert hint in printed(analyse([tmp_path / "legs.parquet"]))
    assert hint not in printed(analyse([tmp_path / "legs.parquet"], metric="time_to_accuracy"))


def test_a_target_that_is_never_reached_is_no_number(tmp_path: Path) -> None:
    rows = paired([1.0, 1.0, 1.0], protocol=json.dumps({"kind": "train", "target_accuracy": 0.9}))
    for row in rows:
        row["accuracy"] = 0.95 if row["arm"] == "zero1" else 0.8
    analysis = analyse([write(tmp_path / "legs.parquet", rows)], metric="time_to_accuracy")
    found = analysis.comparisons[0]
    assert found.verdict == "failed"
    assert found.failure_causes[0].kind == "target_not_reached"
    assert {p.arm: p.share[-1] for p in analysis.profiles} == {"ddp": 0.0, "zero1": 1.0}
    with pytest.raises(UserError, match="time_to_accuracy: no leg's protocol"):
        analyse([write(tmp_path / "none.parquet", paired([1.0]))], metric="time_to_accuracy")


# ---- ladder


def chain(tmp_path: Path, num_settings: int = 3, num_trials: int = 4, seed: int = 0) -> tuple[Ladder, ...]:
    random = np.random.default_rng(seed)
    rows = []
    for setting in range(num_settings):
        for trial in range(num_trials):
            shared = random.normal(0, 0.05)
            for arm, speed, batch in (("cifar", 1.0, 4), ("batch", 2.4, 16), ("fp16", 3.0, 16), ("engine", 3.1, 16)):
                seconds = batch / speed * np.exp(shared + random.normal(0, 0.01))
                rows.append(leg(arm, trial, setting_id=f"s{setting}", seconds=seconds, samples_per_step=batch,
                                global_batch=batch, precision="fp16" if arm in ("fp16", "engine") else "fp32",
                                is_baseline=arm == "cifar", differs=["batch_size", "precision"]))  # fmt: skip
    path = write(tmp_path / f"{seed}.parquet", rows)
    return analyse([path], ladder=("cifar", "batch", "fp16", "engine")).ladders


def test_the_rungs_add_up_to_the_total_exactly(tmp_path: Path) -> None:
    ladders = chain(tmp_path)
    assert [ladder.setting for ladder in ladders] == ["net s0", "net s1", "net s2", ""]
    for ladder in ladders:
        assert np.log([rung.ratio.value for rung in ladder.rungs]).sum() == pytest.approx(
            np.log(ladder.total.value), abs=1e-12
        )
    assert ladders[0].rungs[0].ratio.value == pytest.approx(2.4, rel=0.03)
    assert ladders[0].rungs[0].change == "global_batch 4 -> 16"
    assert ladders[0].rungs[1].change == "precision fp32 -> fp16"
    assert "from cifar to engine, 2.4" in rungs_in_words(ladders[-1])


def test_a_chain_that_the_space_declared_needs_no_naming(tmp_path: Path) -> None:
    rows = [
        leg(arm, trial, round_, seconds=0.01 * (1 + place), is_baseline=arm == "z",
            arm_config=json.dumps({"chain": place}))
        for trial in range(3) for round_ in range(2) for place, arm in enumerate(("z", "a", "m"))
    ]  # fmt: skip
    analysis = analyse([write(tmp_path / "legs.parquet", rows)])
    assert [(rung.before, rung.arm) for rung in analysis.ladders[0].rungs] == [("z", "a"), ("a", "m")]
    assert analysis.ladders[0].total.value == pytest.approx(1 / 3)
    unchained = [{**row, "arm_config": "{}"} for row in rows]
    assert analyse([write(tmp_path / "other.parquet", unchained)]).ladders == ()


def test_the_total_of_a_ladder_is_the_speedup_of_its_last_arm(tmp_path: Path) -> None:
    rows = paired([1.1, 1.2, 1.15])
    analysis = analyse([write(tmp_path / "legs.parquet", rows)], ladder=("ddp", "zero1"))
    assert analysis.ladders[0].total.value == pytest.approx(analysis.comparisons[0].speedup.value)
    assert analysis.ladders[0].total.low == pytest.approx(analysis.comparisons[0].speedup.low)


def test_rung_intervals_cover(tmp_path: Path) -> None:
    ladders = chain(tmp_path, num_settings=400, num_trials=3, seed=1)[:-1]
    for rung, truth in enumerate((2.4, 3.0 / 2.4, 3.1 / 3.0)):
        covered = np.mean([one.rungs[rung].ratio.low < truth < one.rungs[rung].ratio.high for one in ladders])
        assert within_monte_carlo(float(covered), len(ladders))


def test_bad_chains(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", paired([1.1]))
    for ladder, message in ((("ddp", "zreo1"), "did you mean zero1"), (("ddp",), "two arms or more"),
                            (("ddp", "ddp"), "each once")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            analyse([path], ladder=ladder)


# ---- across settings


def test_scaling_efficiency_by_hand(tmp_path: Path) -> None:
    rows = []
    for workers, seconds in ((1, 1.0), (4, 0.5)):
        for trial in range(3):
            for arm in ("ddp", "zero1"):
                rows.append(leg(arm, trial, setting_id=f"w{workers}", seconds=seconds, workers=workers, global_batch=8,
                                micro_batch=8 // workers))  # fmt: skip
    found = analyse([write(tmp_path / "legs.parquet", rows)]).scaling
    assert [(one.arm, one.scaling, one.workers) for one in found] == [("ddp", "strong", 4), ("zero1", "strong", 4)]
    assert found[0].efficiency.value == pytest.approx(2 / 4)


def test_welch_is_scipys() -> None:
    from scipy import stats

    random = np.random.default_rng(0)
    one, other = random.normal(0, 1, 5), random.normal(1, 3, 8)
    expected = stats.ttest_ind(one, other, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert welch_interval(one, other, 0.05) == pytest.approx((one.mean() - other.mean(), interval.low, interval.high))


def test_equal_batch_and_best_against_best(tmp_path: Path) -> None:
    """At batch 8 the arm is slower, but it alone runs batch 32, where it is fastest."""
    rows = []
    for trial in range(3):
        rows += [leg("ddp", trial, seconds=1.0), leg("zero1", trial, seconds=1.25)]
        columns = {"setting_id": "s1", "samples_per_step": 32, "global_batch": 32}
        rows += [
            leg("ddp", trial, failure_kind="out_of_memory", **columns),
            leg("zero1", trial, seconds=2.0, **columns),
        ]
    found = analyse([write(tmp_path / "legs.parquet", rows)])
    assert [(c.verdict, c.speedup.value) for c in found.comparisons] == [
        ("hurts", pytest.approx(0.8)),
        ("unlocks", None),
    ]
    assert len(found.best) == 1
    best = found.best[0]
    assert (best.batch, best.baseline_batch, best.speedup.value) == (32, 8, pytest.approx(2.0))


def test_a_profile_counts_failures_as_infinity(tmp_path: Path) -> None:
    rows = [*paired([2.0] * 3), *paired([0.5] * 3, setting_id="s1")]
    rows += [leg("ddp", setting_id="s2"), leg("zero1", setting_id="s2", failure_kind="crashed")]
    profiles = {
        p.arm: dict(zip(p.within, p.share, strict=True))
        for p in analyse([write(tmp_path / "l.parquet", rows)]).profiles
    }
    assert profiles["ddp"][1.0] == pytest.approx(2 / 3)
    assert profiles["zero1"][1.0] == pytest.approx(1 / 3)
    assert list(profiles["ddp"].items()) == [(1.0, pytest.approx(2 / 3)), (pytest.approx(2.0), 1.0)]
    assert max(profiles["zero1"].values()) == pytest.approx(2 / 3)


# ---- what people see


def test_every_format_holds_every_comparison_and_keeps_odd_names_as_text(tmp_path: Path) -> None:
    rows = [*paired([1.1, 1.12]), *paired([1.2, 1.3], setting_id="a|b_<i>", arm="[red]&zero%")]
    analysis = analyse([write(tmp_path / "legs.parquet", rows)])
    assert WRITERS["csv"](analysis).count("\n") == 3
    assert "a\\|b\\_&lt;i>" in WRITERS["markdown"](analysis)
    assert r"[red]\&zero\%" in WRITERS["latex"](analysis)
    assert r"\toprule" in WRITERS["latex"](analysis)
    for width in (60, 80):
        narrow = Console(width=width, record=True, file=io.StringIO())
        print_document(build(analysis), narrow, full=True)
        assert "net s0" in narrow.export_text()
    console = Console(width=160, record=True, file=io.StringIO())
    print_document(build(analysis), console, full=True)
    text = console.export_text()
    assert "[red]&zero%" in text
    assert text.index("Every arm in every setting") < text.index("How this was obtained") < text.index("is undecided (")


def test_every_table_says_what_arms_are_declared_to_differ_in(tmp_path: Path) -> None:
    analysis = analyse([write(tmp_path / "legs.parquet", paired([1.1, 1.2, 1.1], differs=["batch_size", "optimizer"]))])
    words = {
        "csv": "batch_size; optimizer",
        "latex": r"differ in batch\_size, optimizer",
        "markdown": "batch\\_size, opt",
    }
    for name, expected in words.items():
        assert expected in WRITERS[name](analysis), name
    assert "arms also differ in batch_size, optimizer" in printed(analysis)
    alike = analyse([write(tmp_path / "alike.parquet", paired([1.1, 1.2, 1.1]))])
    assert all("also differ" not in writer(alike) for writer in WRITERS.values())


def test_largest_batches_are_paired_best_against_best_and_shown_with_their_evidence(tmp_path: Path) -> None:
    def probes(size: int) -> str:
        tried = [{"micro_batch": size, "fits": True, "peak_bytes": 2**30, "reason": None}]
        tried.append({"micro_batch": size + 1, "fits": False, "peak_bytes": None, "reason": "no room"})
        return json.dumps({"micro_batch": size, "probes": tried})

    rows = []
    for trial, machine in enumerate([1.0, 1.5, 0.7, 1.2]):  # a machine that is slow in one trial is so for both arms
        common = {"differs": ["batch_size"], "trial": trial}
        small = {"global_batch": 8, "micro_batch": 4, "samples_per_step": 8, "batch_probes": probes(4)}
        large = {"global_batch": 32, "micro_batch": 16, "samples_per_step": 32, "batch_probes": probes(16)}
        rows.append(leg("ddp", seconds=machine, **common, **small))
        rows.append(leg("zero1", seconds=2.0 * machine * (1 + trial / 1000), **common, **large))
    found = analyse([write(tmp_path / "legs.parquet", rows)])
    (best,) = found.best
    (comparison,) = found.comparisons
    assert (best.batch, best.baseline_batch) == (32, 8)
    assert best.speedup.value == pytest.approx(2.0, rel=0.01)  # four times the samples in twice the time
    assert (best.speedup.value, best.speedup.low, best.speedup.high) == pytest.approx(
        (comparison.speedup.value, comparison.speedup.low, comparison.speedup.high)
    )
    assert comparison.verdict == "helps"
    assert [(one.arm, one.micro_batch, one.refused_batch) for one in found.largest] == [
        ("ddp", 4, 5),
        ("zero1", 16, 17),
    ]
    assert largest_in_words(found.largest[1]) == (
        "zero1 in net s0: 16 samples a worker, 32 in all (1,024 MiB); 17 do not fit: no room"
    )
