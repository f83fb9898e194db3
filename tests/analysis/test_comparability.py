"""Nothing is pooled or compared that is not the same: each case is named, and either has no verdict or says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import Comparison, analyse
from tests.analysis.ledgers import leg, texts, write

RATIOS = (1.1, 1.12, 1.08, 1.11, 1.09)
Row = dict[str, Any]


def sweep(change: Callable[[Row], Row] = dict, num_rounds: int = 1, **columns: Any) -> list[Row]:
    """Trials whose steps scatter as measured ones do; `change` alters each row."""
    random = np.random.default_rng(7)
    rows = []
    for (trial, ratio), round in itertools.product(enumerate(RATIOS), range(num_rounds)):
        for arm, seconds in (("ddp", 1.0), ("zero1", 1 / ratio)):
            steps = (seconds * random.normal(1, 0.001, 6)).tolist()
            rows.append(change(leg(arm, trial, round, steps, **columns)))
    return rows


def compared(folder: Path, *ledgers: list[Row]) -> Comparison:
    paths = [write(folder / str(i) / "legs.parquet", rows) for i, rows in enumerate(ledgers)]
    (comparison,) = analyse(paths).comparisons
    return comparison


def altered(row: Row, where: bool, **columns: Any) -> Row:
    return row | columns if where else row


CASES: dict[str, tuple[Callable[[Row], Row], str]] = {
    "another seed in one arm": (
        lambda row: altered(row, row["arm"] == "zero1" and row["repeat"] == 2, seed=77),
        "seed: 2 in ddp, 77 in zero1",
    ),
    "another warm-up in one arm": (
        lambda row: altered(row, row["arm"] == "zero1", warmup_steps=2),
        "warmup_steps: 1 in ddp, 2 in zero1",
    ),
    "other steps in one arm": (
        lambda row: altered(row, row["arm"] == "zero1", step_seconds=row["step_seconds"][:4], data_seconds=[0.0] * 4),
        "steps: 6 in ddp, 4 in zero1",
    ),
    "one name, two configurations": (
        lambda row: altered(
            row, row["arm"] == "zero1", arm_config=json.dumps({"zero": 1 if row["repeat"] < 3 else 2, "offload": None})
        ),
        "arm_config of zero1: zero is 1 in some legs, 2 in others",
    ),
    "another configuration of the baseline": (
        lambda row: altered(row, row["arm"] == "ddp" and row["repeat"] == 4, arm_config=json.dumps({"compile": True})),
        "arm_config of ddp: compile is nothing in some legs, True in others",
    ),
    "a key that is 0 and one that is not there": (
        lambda row: altered(
            row, row["arm"] == "zero1" and row["repeat"] == 1, arm_config=json.dumps({"gradient_clipping": 0.0})
        ),
        "arm_config of zero1: gradient_clipping is nothing in some legs, 0.0 in others",
    ),
    "other facts in some trials": (
        lambda row: row | {"facts": json.dumps({"optimizer": {"lr": 0.1 if row["repeat"] < 3 else 0.2}})},
        "optimizer.lr of ddp differs between trials: 0.1, 0.2",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_what_is_not_the_same_has_no_verdict(tmp_path: Path, case: str) -> None:
    change, reason = CASES[case]
    found = compared(tmp_path, sweep(change))
    assert found.verdict == "not comparable"
    assert reason in texts(found)
    assert found.speedup.value is not None


def test_two_ledgers_of_one_arm_name_and_two_configurations(tmp_path: Path) -> None:
    one, other = (
        sweep(lambda row, zero=zero: altered(row, row["arm"] == "zero1", arm_config=json.dumps({"zero": zero})),
              sweep=f"day {zero}")
        for zero in (1, 2)
    )  # fmt: skip
    found = compared(tmp_path, one, other)
    assert found.verdict == "not comparable"
    assert "arm_config of zero1: zero is 1 in some legs, 2 in others" in texts(found)


def test_one_name_with_other_arms_in_other_settings_is_told(tmp_path: Path) -> None:
    def of(setting: str, stage: int) -> list[Row]:
        config = {
            "zero": stage,
            "deepspeed_config": {"train_batch_size": 8 * stage, "zero_optimization": {"stage": stage}},
        }
        change = lambda row: altered(row, row["arm"] == "zero1", arm_config=json.dumps(config))  # noqa: E731
        return sweep(change, setting_id=setting)

    found = analyse([write(tmp_path / "legs.parquet", of("s0", 1) + of("s1", 2))])
    told = "zero1 is not the same arm in all settings, and its summary pools them: deepspeed_config.zero_optimization"
    assert any(caveat.startswith(told) for caveat in texts(found))
    assert {c.verdict for c in found.comparisons} == {"helps"}
    assert texts(analyse([write(tmp_path / "one.parquet", of("s0", 1) + of("s1", 1))])) == ()


def test_a_script_may_run_other_numbers_of_steps(tmp_path: Path) -> None:
    def change(row: Row) -> Row:
        shorter = {"engine": "script", "step_seconds": row["step_seconds"][:5], "data_seconds": [0.0] * 5}
        return altered(row, row["arm"] == "zero1", **shorter)

    found = compared(tmp_path, sweep(change))
    assert found.verdict == "helps"
    assert "steps: 6 in ddp, 5 in zero1; a script chooses its own number" in texts(found)


def test_two_spellings_of_one_arm_are_one(tmp_path: Path) -> None:
    def change(row: Row) -> Row:
        spelling = (
            {"zero": 1} if row["repeat"] < 2 else {"config": {"zero_optimization": {"stage": 1}}, "compile": False}
        )
        whole = {"deepspeed_config": {"zero_optimization": {"stage": 1}}}
        return altered(row, row["arm"] == "zero1", arm_config=json.dumps(spelling | whole))

    assert compared(tmp_path, sweep(change)).verdict == "helps"


def test_what_follows_from_the_seed_or_says_nothing_is_the_same(tmp_path: Path) -> None:
    def change(row: Row) -> Row:
        facts = {"initial_weights": f"w{row['seed']}", "first_loss": 2.0 + row["seed"], "threads": 2}
        config = {"offload": None} if row["repeat"] else {"setting": {}}
        return row | {"facts": json.dumps(facts), "arm_config": json.dumps(config)}

    assert compared(tmp_path, sweep(change)).verdict == "helps"


def test_trials_of_other_lengths_are_told(tmp_path: Path) -> None:
    found = compared(tmp_path, sweep(lambda row: altered(row, row["repeat"] == 3, warmup_steps=3)))
    assert found.verdict == "helps"
    assert "trials differ in warmup_steps: 1 | 3" in texts(found)


def test_trials_of_one_set_of_processes_are_one_sample(tmp_path: Path) -> None:
    found = compared(
        tmp_path, sweep(lambda row: row | {"process_group": "g0" if row["repeat"] < 2 else row["trial_id"]})
    )
    assert found.n_trials == 4
    assert "2 trials ran in one set of processes: they count as 1" in texts(found)
    alone = compared(tmp_path, sweep(lambda row: row | {"process_group": "g"}))
    assert (alone.n_trials, alone.verdict) == (1, "undecided")
    apart = compared(tmp_path, sweep(lambda row: row | {"process_group": row["trial_id"]}))
    assert (apart.n_trials, apart.verdict) == (5, "helps")


def test_a_copy_of_a_trial_under_another_id_counts_once(tmp_path: Path) -> None:
    rows = sweep()
    copies = [
        row | {"trial_id": f"copy {n}", "leg_id": f"copy {n} {row['arm']}", "repeat": 9 + n, "seed": 9 + n}
        for n in range(10) for row in rows if row["repeat"] == 0
    ]  # fmt: skip
    found = compared(tmp_path, rows + copies)
    assert found.n_trials == 5
    assert found.speedup == compared(tmp_path, rows).speedup
    assert "11 trials have the step times of another one, as copies do: they count as 1" in texts(found)


def test_a_margin_that_only_one_ledger_names_is_told(tmp_path: Path) -> None:
    paths = [write(tmp_path / name / "legs.parquet", sweep(sweep=name)) for name in ("a", "b")]
    (tmp_path / "a" / "_space.yaml").write_text("question: {margin: 0.1}\n")
    assert "margin is named by 1 of the 2 ledgers only (a)" in texts(analyse(paths))
    assert not any("margin is named" in caveat for caveat in texts(analyse(paths, margin=0.1)))
    assert texts(analyse(paths[:1])) == ()


# ---- the losses of the first steps


def with_losses(change: Callable[[Row, np.ndarray], np.ndarray], device: str = "cpu", **columns: Any) -> list[Row]:
    def losses(row: Row) -> Row:
        decline = 2.3 * 0.97 ** np.arange(6) * (1 + 0.01 * row["repeat"])
        return row | {"step_losses": change(row, decline).tolist(), "facts": json.dumps({"device": device})}

    return sweep(losses, num_rounds=2, **columns)


def parts_at(step: int, size: float) -> Callable[[Row, np.ndarray], np.ndarray]:
    """In the arm, losses are off by a relative `size` from a step (counted from 1) on."""
    return lambda row, losses: losses * np.where((row["arm"] == "zero1") & (np.arange(6) >= step - 1), 1 + size, 1.0)


def test_losses_that_part_are_named_with_their_step(tmp_path: Path) -> None:
    found = compared(tmp_path, with_losses(parts_at(4, 1e-4)))
    assert found.verdict == "not comparable"
    assert texts(found)[0].startswith("losses part at step 4: 2.099148 in ddp, 2.099358 in zero1")


@pytest.mark.parametrize(
    ("size", "precision", "device", "verdict"),
    [
        (8e-8, "fp32", "cpu", "helps"), (6e-7, "fp32", "cpu", "not comparable"), (2e-6, "fp32", "cuda", "helps"),
        (1e-4, "fp32", "cuda", "not comparable"), (1e-3, "bf16", "cuda", "helps"),
        (1e-2, "bf16", "cuda", "not comparable"),
    ],
)  # fmt: skip
def test_losses_may_differ_by_what_the_precision_allows(
    tmp_path: Path, size: float, precision: str, device: str, verdict: str
) -> None:
    assert compared(tmp_path, with_losses(parts_at(2, size), device, precision=precision)).verdict == verdict


def test_a_difference_that_is_declared_may_move_the_losses(tmp_path: Path) -> None:
    assert compared(tmp_path, with_losses(parts_at(2, 0.1), differs=["optimizer"])).verdict == "helps"
    assert compared(tmp_path, with_losses(parts_at(2, 0.1), differs=["loader"])).verdict == "not comparable"


def test_losses_that_do_not_repeat_themselves_are_held_to_their_own_scatter(tmp_path: Path) -> None:
    random = np.random.default_rng(1)

    def scattered(row: Row, losses: np.ndarray) -> np.ndarray:
        return losses * (1 + random.normal(0, 0.01, 6) * (np.arange(6) > 0))

    assert compared(tmp_path, with_losses(scattered, "cuda")).verdict == "helps"


def test_a_run_that_diverges_is_not_held_to_its_losses(tmp_path: Path) -> None:
    def diverging(row: Row, losses: np.ndarray) -> np.ndarray:
        return (
            losses
            * np.array([1, 1, 2, 9, 40, 90])
            * (1.3 if row["arm"] == "zero1" else 1.0) ** np.arange(-2, 4).clip(0)
        )

    assert compared(tmp_path, with_losses(diverging)).verdict == "helps"


def test_a_loss_on_one_side_only_has_parted(tmp_path: Path) -> None:
    def change(row: Row, losses: np.ndarray) -> np.ndarray:
        return np.where((row["arm"] == "zero1") & (np.arange(6) == 4), np.nan, losses)

    found = compared(tmp_path, with_losses(change))
    assert texts(found)[0].startswith("losses part at step 5")
