"""From ledgers to verdicts: numbers by hand, invariances, and every outcome that is not a number."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from raybench.analysis import Analysis, Comparison, analyse
from raybench.show.words import answer_in_words
from tests.analysis.ledgers import leg, paired, texts, write
from tests.analysis.simulation import Truth, simulate_ledger

RATIOS = [1.10, 1.12, 1.08, 1.11, 1.09]


def only(analysis: Analysis) -> Comparison:
    assert len(analysis.comparisons) == 1
    return analysis.comparisons[0]


@pytest.fixture
def judged(tmp_path: Path):
    """Write rows as a ledger and analyse it."""

    def run(rows: list[dict[str, Any]], **question: Any) -> Analysis:
        return analyse([write(tmp_path / f"{random.random()}" / "legs.parquet", rows)], **question)

    return run


# ---- the numbers


def test_speedup_by_hand(judged) -> None:
    rows = [
        leg("ddp", 0, 0, [9.0, 2.0, 4.0]), leg("zero1", 0, 0, [9.0, 1.0, 2.0]),  # log(3 / 1.5)
        leg("zero1", 0, 1, [9.0, 2.0, 2.0]), leg("ddp", 0, 1, [9.0, 2.0, 2.0]),  # log(2 / 2)
        leg("ddp", 1, 0, [9.0, 3.0, 3.0]), leg("zero1", 1, 0, [9.0, 1.0, 1.0]),  # log(3 / 1)
        leg("zero1", 1, 1, [9.0, 1.0, 3.0]), leg("ddp", 1, 1, [9.0, 1.0, 1.0]),  # log(1 / 2)
    ]  # fmt: skip
    d = [(np.log(2) + 0) / 2, (np.log(3) - np.log(2)) / 2]
    found = only(judged(rows))
    expected = stats.ttest_1samp(d, 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.n_trials == 2
    assert found.speedup.value == pytest.approx(np.exp(np.mean(d)), rel=1e-12)
    assert found.judgement.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.speedup.low == pytest.approx(np.exp(interval.low), rel=1e-9)
    assert found.speedup.high == pytest.approx(np.exp(interval.high), rel=1e-9)
    assert found.judgement.sign_flip_p == 0.5
    assert found.baseline.seconds / found.treated.seconds == pytest.approx(found.speedup.value)


def test_an_independent_reading_agrees(tmp_path: Path) -> None:
    """The same ledger through pandas and SciPy alone."""
    import pandas as pd
    from statsmodels.stats.multitest import multipletests

    truth = Truth({"ddp": 1.0, "zero1": 1.02, "zero3": 0.8}, num_settings=7, num_trials=4, setting_deviation=0.05)
    path = simulate_ledger(tmp_path / "legs.parquet", truth)
    found = analyse([path])
    frame = pd.read_parquet(path)
    frame["log"] = [np.log(np.mean(s[w:])) for s, w in zip(frame.step_seconds, frame.warmup_steps, strict=True)]
    cells = frame.pivot_table(index=["setting_id", "trial_id"], columns="arm", values="log", aggfunc="mean")
    ps = []
    for c in found.comparisons:
        d = (cells["ddp"] - cells[c.arm]).loc[c.where.setting_id]
        test = stats.ttest_1samp(d, 0.0)
        interval = test.confidence_interval(0.95)
        got = [c.speedup.value, c.speedup.low, c.speedup.high, c.judgement.p_value]
        np.testing.assert_allclose(got, [*np.exp([d.mean(), interval.low, interval.high]), test.pvalue], rtol=1e-9)
        error, margin = d.std(ddof=1) / np.sqrt(len(d)), np.log(1.03)
        beyond, inside, far = (stats.t.sf(x / error, len(d) - 1) for x in (
            abs(d.mean()) - margin, margin - abs(d.mean()), margin + abs(d.mean())))  # fmt: skip
        ps.append(min(1.0, 2 * beyond, max(inside, 2 * (inside - far))))
        assert (c.verdict != "undecided") == (c.judgement.p_adjusted <= 0.05)
    np.testing.assert_allclose(
        [c.judgement.p_adjusted for c in found.comparisons], multipletests(ps, method="holm")[1], rtol=1e-9
    )
    for arm in found.arms:
        logs = np.log([c.speedup.value for c in found.comparisons if c.arm == arm.arm])
        mean, sd, k = logs.mean(), logs.std(ddof=1), len(logs)
        half = stats.t.ppf(0.975, k - 1) * sd
        np.testing.assert_allclose(
            [arm.fixed.value, arm.population.low, arm.population.high],
            np.exp(
                [
                    mean,
                    mean - half / k**0.5,
                    mean + half / k**0.5,
                ]
            ),
            rtol=1e-9,
        )
        assert arm.n_settings == arm.tally.helps + arm.tally.no_effect + arm.tally.hurts + arm.tally.undecided == 7


def test_throughput_counts_all_ranks_and_accumulation(judged) -> None:
    """4 ranks x 2 accumulated micro-batches of 16 in 2 s against 64 in 1.5 s: 64 and 42.7 samples a second."""
    rows = [
        row for trial in range(3) for row in (
            leg("ddp", trial, seconds=1.5, samples_per_step=64, global_batch=64, micro_batch=16, workers=4,
                differs=["batch_size"]),
            leg("big", trial, seconds=2.0, samples_per_step=128, global_batch=128, micro_batch=16, accumulation=2,
                workers=4, differs=["batch_size"]),
        )
    ]  # fmt: skip
    found = only(judged(rows))
    assert found.speedup.value == pytest.approx((128 / 2.0) / (64 / 1.5))
    assert found.seconds_per == "sample"
    assert found.baseline.seconds == pytest.approx(1.5 / 64)
    assert found.baseline.samples_per_second == pytest.approx(64 / 1.5)
    assert found.treated.samples_per_second == pytest.approx(4 * 2 * 16 / 2.0)
    assert not any("add up" in caveat for caveat in texts(found))
    assert found.verdict == "helps"
    assert "per sample, not per step: ddp takes 64 a step, big 128" in texts(found)
    assert "arms also differ in batch_size, as the space declares" in texts(found)


def test_different_batches_that_nobody_declared_are_not_comparable(judged) -> None:
    rows = [row for t in range(3) for row in (leg("ddp", t), leg("big", t, samples_per_step=16))]
    found = only(judged(rows))
    assert found.verdict == "not comparable"
    assert "samples_per_step: 8 in ddp, 16 in big" in texts(found)


def test_throughput_at_equal_batches_and_batches_that_contradict_themselves(judged) -> None:
    found = only(judged(paired(RATIOS, base=0.5)))
    assert found.baseline.samples_per_second == pytest.approx(16.0)
    assert found.treated.samples_per_second == pytest.approx(16.0 * found.speedup.value)
    assert not any("add up" in caveat for caveat in texts(found))
    odd = only(judged(paired(RATIOS, accumulation=2)))
    assert any("micro x accumulation x workers is 4 x 2 x 2" in caveat for caveat in texts(odd))


# ---- what must not matter, and what must


def test_swapped_arms_invert_the_ratio_exactly(judged) -> None:
    rows = paired(RATIOS)
    there, back = only(judged(rows)), only(judged(rows, baseline="zero1"))
    assert (back.arm, there.arm) == ("ddp", "zero1")
    assert back.speedup.value == pytest.approx(1 / there.speedup.value, rel=1e-14)
    assert back.speedup.low == pytest.approx(1 / there.speedup.high, rel=1e-14)
    assert back.judgement.p_value == there.judgement.p_value
    assert (there.verdict, back.verdict) == ("helps", "hurts")


@pytest.mark.parametrize("unit", [1e-6, 1000.0])
def test_scaling_all_times_changes_nothing(judged, unit: float) -> None:
    one, other = only(judged(paired(RATIOS))), only(judged(paired(RATIOS, base=unit)))
    assert other.speedup.value == pytest.approx(one.speedup.value, rel=1e-12)
    assert other.speedup.low == pytest.approx(one.speedup.low, rel=1e-9)
    assert other.verdict == one.verdict


def test_more_ranks_and_more_steps_do_not_narrow_an_interval(judged) -> None:
    few = paired(RATIOS)
    many = paired(RATIOS, workers=64)
    for row in many:
        row["step_seconds"] = row["step_seconds"] * 50
        row["data_seconds"] = row["data_seconds"] * 50
    one, other = only(judged(few)), only(judged(many))
    assert other.n_trials == one.n_trials == 5
    assert other.speedup.high - other.speedup.low == pytest.approx(one.speedup.high - one.speedup.low, rel=1e-9)


def test_neither_the_order_of_rows_nor_repeated_rows_change_a_byte(judged) -> None:
    rows = [row for s in "abc" for row in paired(np.random.default_rng(len(s)).normal(1, 0.05, 6), setting_id=s)]
    shuffled = random.Random(1).sample(rows, len(rows))
    texts = {
        json.dumps({**judged(version).to_json(), "ledgers": None}) for version in (rows, shuffled, rows + shuffled[:9])
    }
    assert len(texts) == 1


def test_the_first_row_of_a_leg_counts(judged) -> None:
    again = {**leg("zero1", 0, seconds=50.0)}
    assert only(judged([*paired(RATIOS), again])).speedup.value == only(judged(paired(RATIOS))).speedup.value


# ---- known truth


def test_a_known_effect_is_recovered_and_none_is_not_invented(tmp_path: Path) -> None:
    truth = Truth({"ddp": 1.0, "same": 1.0, "fast": 1.10}, num_settings=1000, num_steps=4, drift=0.01)
    found = analyse([simulate_ledger(tmp_path / "legs.parquet", truth)])
    for arm, speedup in (("same", 1.0), ("fast", 1.10)):
        members = [c for c in found.comparisons if c.arm == arm]
        covered = np.mean([c.speedup.low < speedup < c.speedup.high for c in members])
        assert abs(covered - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 1000)
        assert np.exp(np.mean(np.log([c.speedup.value for c in members]))) == pytest.approx(speedup, rel=2e-3)
    assert not any(c.verdict in ("helps", "hurts") for c in found.comparisons if c.arm == "same")


def test_drift_cancels_in_a_balanced_order(tmp_path: Path) -> None:
    truth = Truth(
        {"ddp": 1.0, "a": 1.0, "b": 1.0}, num_settings=50, drift=0.05, trial_deviation=0.002, leg_deviation=0.0
    )
    found = analyse([simulate_ledger(tmp_path / "legs.parquet", truth)])
    assert {c.verdict for c in found.comparisons} == {"no effect"}
    assert all(
        any(caveat.startswith("order matters") for caveat in texts(c)) for c in found.comparisons if c.arm == "b"
    )


# ---- outcomes that are not numbers


def failed(arm: str, trial: int, kind: str = "out_of_memory", **columns: Any) -> dict[str, Any]:
    return leg(arm, trial, failure_kind=kind, **columns)


@pytest.mark.parametrize(
    ("arm_fails", "base_fails", "verdict"),
    [
        ("out_of_memory", "", "blocked"), ("", "out_of_memory", "unlocks"), ("out_of_memory", "timeout", "both failed"),
        ("crashed", "", "failed"), ("", "not_finite", "failed"),
    ],
)  # fmt: skip
def test_failures_on_one_side_and_on_both(judged, arm_fails: str, base_fails: str, verdict: str) -> None:
    rows = [
        row for t in range(3) for row in (
            failed("ddp", t, base_fails) if base_fails else leg("ddp", t),
            failed("zero3", t, arm_fails) if arm_fails else leg("zero3", t),
        )
    ]  # fmt: skip
    analysis = judged([*rows, *paired(RATIOS, "zero3", setting_id="s1")])
    found = next(c for c in analysis.comparisons if c.where.setting_id == "s0")
    assert found.verdict == verdict
    assert found.n_trials == 0
    assert found.speedup.value is found.speedup.low is found.judgement.p_value is found.judgement.p_adjusted is None
    assert found.judgement.trials_needed is None
    assert found.failures == 3 * (bool(arm_fails) + bool(base_fails))
    failing = {name for name, fails in (("zero3", arm_fails), ("ddp", base_fails)) if fails}
    assert {cause.arm for cause in found.failure_causes} == failing
    arm = analysis.arms[0]
    assert (arm.n_settings, arm.n_compared) == (2, 1)
    assert arm.tally[verdict] == 1
    assert arm.population.value == pytest.approx(next(c.speedup.value for c in analysis.comparisons if c.n_trials))
    assert f"over 1 of 2 settings; by setting: 1 helps, 1 {verdict}." in answer_in_words(analysis)


def test_a_trial_that_fails_on_one_side_is_told_and_not_used(judged) -> None:
    rows = [*paired(RATIOS), leg("ddp", 5), failed("zero1", 5, "crashed")]
    found = only(judged(rows))
    assert found.n_trials == 5
    assert found.failures == 1
    assert found.failure_causes[0].kind == "crashed"
    assert "1 of 6 legs of zero1 failed; the speedup rests on the 5 trials in which both ran" in texts(found)


def test_a_round_on_one_side_only_is_told_and_not_paired(judged) -> None:
    rows = [*paired(RATIOS), leg("ddp", 0, 1, seconds=100.0), failed("zero1", 0, round=1)]
    found = only(judged(rows))
    assert found.speedup.value == only(judged(paired(RATIOS))).speedup.value
    assert "1 round was measured on one side only, and not used" in texts(found)


def test_an_arm_in_some_trials_only_is_told(judged) -> None:
    found = only(judged([*paired(RATIOS), leg("ddp", 7), leg("ddp", 8)]))
    assert found.n_trials == 5
    assert "zero1 has legs in only 5 of the setting's 7 trials" in texts(found)


def test_one_trial_is_undecided_without_an_interval(judged) -> None:
    found = only(judged(paired([2.0])))
    assert found.verdict == "undecided"
    assert found.speedup.value == pytest.approx(2.0)
    assert found.speedup.low is found.speedup.high is found.judgement.p_value is found.judgement.trials_needed is None
    assert any(caveat.startswith("one trial") for caveat in texts(found))


def test_two_trials_have_an_interval(judged) -> None:
    found = only(judged(paired([1.10, 1.2])))
    assert found.speedup.low < found.speedup.value < found.speedup.high
    assert found.verdict == "undecided"
    assert found.judgement.trials_needed > 2


def test_identical_trials_give_numbers(judged) -> None:
    for ratio, verdict in ((1.0, "no effect"), (1.5, "helps")):
        found = only(judged(paired([ratio] * 4)))
        assert found.verdict == verdict
        assert found.speedup.low == pytest.approx(ratio)
        assert found.judgement.p_value == (1.0 if ratio == 1 else 0.0)
        assert any("agree to the last digit" in caveat for caveat in texts(found))


def test_a_setting_whose_baseline_never_started_is_undecided(judged) -> None:
    analysis = judged([*paired(RATIOS), leg("zero1", 0, setting_id="s1")])
    found = next(c for c in analysis.comparisons if c.where.setting_id == "s1")
    assert found.verdict == "undecided"
    assert "the baseline ddp has no leg in this setting, so there is nothing to compare with" in texts(found)


def test_the_baseline_alone_is_an_empty_answer(judged) -> None:
    analysis = judged([leg("ddp", t) for t in range(3)])
    assert analysis.comparisons == ()
    assert "nothing to compare" in texts(analysis)[0]


# ---- the same experiment, or no verdict


def with_facts(base: dict[str, Any], arm: dict[str, Any], **columns: Any) -> list[dict[str, Any]]:
    rows = paired(RATIOS, **columns)
    for row in rows:
        row["facts"] = json.dumps(base if row["arm"] == "ddp" else arm)
    return rows


def test_a_fact_that_differs_is_named_with_both_values(judged) -> None:
    rows = with_facts({"optimizer": {"weight_decay": 0.01, "lr": 1}}, {"optimizer": {"weight_decay": 0.0, "lr": 1}})
    found = only(judged(rows))
    assert found.verdict == "not comparable"
    assert texts(found)[0] == "optimizer.weight_decay: 0.01 in ddp, 0.0 in zero1"
    assert found.speedup.value is not None
    assert judged(rows).arms[0].population.value is None


@pytest.mark.parametrize("word", ["optimizer", "optimizer.weight_decay", "weight_decay"])
def test_a_fact_declared_as_different_may_differ(judged, word: str) -> None:
    rows = with_facts({"optimizer": {"weight_decay": 0.01}}, {"optimizer": {"weight_decay": 0.0}}, differs=[word])
    found = only(judged(rows))
    assert found.verdict == "helps"
    assert f"arms also differ in {word}, as the space declares" in texts(found)
    assert found.differs == (word,)


@pytest.mark.parametrize(
    ("name", "base", "arm", "precision", "comparable"),
    [
        ("first_loss", 2.3, 2.3001, "fp32", True), ("first_loss", 2.3, 2.31, "fp32", False),
        ("first_loss", 2.3, 2.31, "bf16", True), ("first_gradient_norm", 1.0, 1.2, "bf16", False),
        ("lr", 0.1, 0.1 * (1 + 1e-12), "fp32", True), ("lr", 0.1, 0.1000001, "fp32", False),
        ("informative", {"a": 1}, {"a": 2}, "fp32", True), ("betas", [0.9, 0.999], [0.9, 0.95], "fp32", False),
        ("autocast", True, False, "fp32", False), ("shuffle", 1, True, "fp32", True),
        ("master_dtype", "float32", "", "fp32", True),
    ],
)  # fmt: skip
def test_tolerances(judged, name: str, base: Any, arm: Any, precision: str, comparable: bool) -> None:
    found = only(judged(with_facts({name: base}, {name: arm}, precision=precision)))
    assert (found.verdict != "not comparable") == comparable


def test_facts_that_only_one_side_states_say_nothing(judged) -> None:
    assert only(judged(with_facts({"a": 1, "b": 2}, {"a": 1, "c": 3}))).verdict == "helps"


def test_no_facts_are_a_caveat_not_a_refusal(judged) -> None:
    found = only(judged(with_facts({}, {})))
    assert found.verdict == "helps"
    assert any(caveat.startswith("no facts are stated") for caveat in texts(found))


def test_one_trial_with_other_facts_is_enough_to_refuse(judged) -> None:
    rows = paired(RATIOS)
    rows[-1]["facts"] = json.dumps({"gradient_clipping": 1.0})
    assert "gradient_clipping: 0.0 in ddp, 1.0 in zero1" in texts(only(judged(rows)))


# ---- several ledgers


def test_machines_are_kept_apart_and_pooled_on_request(tmp_path: Path) -> None:
    a = write(tmp_path / "a" / "legs.parquet", paired([1.2, 1.21, 1.19], environment={"gpu": "A100", "node": "n1"}))
    h = write(tmp_path / "h" / "legs.parquet", paired([1.0, 1.01, 0.99], environment={"gpu": "H100", "node": "n2"}))
    apart = analyse([a, h])
    assert [(c.where.hardware, round(c.speedup.value, 1)) for c in apart.comparisons] == [("A100", 1.2), ("H100", 1.0)]
    assert len(apart.arms) == 2
    assert "On A100, zero1 helps" in answer_in_words(apart)
    pooled = only(analyse([a, h], pool_hardware=True))
    assert pooled.n_trials == 6
    assert any(caveat.startswith("mixed hardware: A100 | H100") for caveat in texts(pooled))


def test_a_ledger_given_twice_counts_once_and_two_sweeps_add_up(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "legs.parquet", paired(RATIOS))
    other = write(tmp_path / "b" / "legs.parquet", paired([1.1, 1.13, 1.07], sweep="monday"))
    assert only(analyse([one, one])).n_trials == 5
    both = only(analyse([one, other]))
    assert both.n_trials == 8
    assert "trials of 2 sweeps are taken together: friday, monday" in texts(both)


def test_a_failure_that_does_not_say_where_it_ran_belongs_to_its_trial(judged) -> None:
    rows = [*paired(RATIOS), leg("ddp", 5), leg("zero1", 5, failure_kind="crashed", environment={"node": "n3"})]
    assert only(judged(rows)).failures == 1


def test_mixed_versions_are_told(judged) -> None:
    rows = paired(RATIOS)
    for row in rows:
        version = "2.5" if row["repeat"] < 2 else "2.6"
        row["environment"] = json.dumps({"gpu": "H100", "packages": {"torch": version, "ray": "2"}})
    assert "mixed versions: torch 2.5 | torch 2.6" in texts(only(judged(rows)))


# ---- caveats and sensitivity


def test_caveats_of_the_measurement(judged) -> None:
    rows = paired(RATIOS)
    for row in rows:
        row |= {"step_seconds": [9.0, 1.0, 1.0, 2.0, 2.0], "data_seconds": [0.0, 0.5, 0.5, 0.5, 0.5]}
        row |= {"steady_from_step": 3, "process_group": "g1"}
    rows[0]["process_group"] = "g0"
    caveats = " / ".join(texts(only(judged(rows))))
    assert "input-bound: 33 % of a step of ddp" in caveats
    assert "drift: within a leg of zero1 the second half is 100.0 % slower" in caveats
    assert "10 of 10 legs were not steady" in caveats
    assert "1 of 5 rounds pair legs of different processes" in caveats


def test_a_cut_trial_is_kept_and_judged_without_as_well(judged) -> None:
    rows = paired([1.10, 1.11, 1.09, 1.30])
    for row in rows:
        row["process_group"] = f"g{row['repeat']}"
    rows[-1]["process_group"] = "resumed"
    found = only(judged(rows))
    assert found.n_trials == 4
    assert "1 of 4 rounds pair legs of different processes" in " / ".join(texts(found))
    assert [(other.kind, round(other.speedup, 2)) for other in found.sensitivity][1:] == [("uncut rounds only", 1.10)]
    assert "with the uncut rounds only the verdict would be 'helps'" in texts(found)


def test_fresh_isolation_is_no_cut_trial(judged) -> None:
    rows = paired(RATIOS)
    for number, row in enumerate(rows):
        row["process_group"] = f"g{number}"
    assert not any("different processes" in caveat for caveat in texts(only(judged(rows))))


def test_a_verdict_that_rests_on_outlying_steps_is_told(judged) -> None:
    rows = paired([1.0, 1.001, 0.999, 1.0, 1.0])
    for row in rows:
        slow = row["arm"] == "zero1"
        row["step_seconds"] = [9.0, *[row["step_seconds"][0]] * 18, *([20.0] if slow else [1.0])]
        row["data_seconds"] = [0.0] * 20
    found = only(judged(rows))
    assert found.verdict == "hurts"
    assert "with the median step the verdict would be 'no effect'" in texts(found)
    assert found.sensitivity[0].speedup == pytest.approx(1.0, abs=1e-3)


# ---- the question


def test_margin_and_alpha_come_from_the_space_beside_the_ledger(tmp_path: Path) -> None:
    path = write(tmp_path / "legs.parquet", paired([1.10, 1.12, 1.08]))
    assert (analyse([path]).margin, analyse([path]).alpha) == (0.03, 0.05)
    (tmp_path / "_space.yaml").write_text("question: {margin: 0.25, alpha: 1e-2}\n")
    told = analyse([tmp_path])
    assert (told.margin, told.alpha) == (0.25, 0.01)
    assert told.comparisons[0].verdict == "no effect"
    assert analyse([tmp_path], margin=0.01).margin == 0.01


def test_groups(judged) -> None:
    rows = [
        row for s, f in (("s0", "cnn"), ("s1", "vit"), ("s2", "vit")) for row in paired(RATIOS, setting_id=s, family=f)
    ]
    assert [g.value for g in judged(rows, by="batch_size").groups] == ["8"]
    groups = judged(rows, by="family").groups
    assert [(g.value, g.summary.n_settings) for g in groups] == [("cnn", 1), ("vit", 2)]


def test_memory_and_accuracy(judged) -> None:
    rows = paired(RATIOS)
    for row in rows:
        zero = row["arm"] == "zero1"
        row |= {"peak_device_bytes": 600 if zero else 1000, "accuracy": 0.88 if zero else 0.9}
    found = only(judged(rows))
    assert found.memory.ratio.value == pytest.approx(0.6)
    assert found.memory.of == "device"
    assert found.accuracy.value == pytest.approx(-0.02)
    assert only(judged(paired(RATIOS))).memory.of == "host"
