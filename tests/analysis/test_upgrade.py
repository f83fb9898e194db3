"""Versions as arms: slower, or training differently, and what such arms have beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import analyse
from raybench.analysis.across.upgrade import VersionInSetting, compare_versions, is_worse
from tests.analysis.ledgers import leg, write

OLD, NEW = "deepspeed 0.18.4", "deepspeed 0.18.6"
SECONDS = {"ddp": 0.5, OLD: 0.9, NEW: 1.2}
STEPS = 12


def versions(tmp_path: Path, seconds: dict[str, float] | None = None, **changes: np.ndarray) -> list[VersionInSetting]:
    """Three trials; `losses` and `norms` are factors of the newer version's, one a step."""
    rows = []
    for trial in range(3):
        for arm, step in (seconds or SECONDS).items():
            factors = changes if arm == NEW else {}
            packages = None if arm == "ddp" else json.dumps({"deepspeed": arm.split()[1]})
            losses, norms = 2.3 * 0.97 ** np.arange(STEPS), 1.5 * 0.9 ** np.arange(STEPS)
            rows.append(
                leg(
                    arm, trial, seconds=[step * (1 + 0.001 * trial)] * STEPS, packages=packages,
                    step_losses=(losses * factors.get("losses", 1.0)).tolist(),
                    gradient_norms=(norms * factors.get("norms", 1.0)).tolist()[:10],
                    facts=json.dumps({"device": "cpu"}), differs=["packages"], process_group=f"{arm} {trial}",
                    environment=environment(arm),
                )
            )  # fmt: skip
    return compare_versions(write(tmp_path / "legs.parquet", rows), [OLD, NEW])[1]


def environment(arm: str) -> dict[str, Any]:
    return {"packages": {"deepspeed": arm.split()[-1], "numpy": "2.3" if arm == NEW else "2.4"}}


def test_versions_on_two_kinds_of_machines_are_told_apart(tmp_path: Path) -> None:
    rows = [
        leg(arm, 3 * number + trial, seconds=[step * (1 + 0.001 * trial)] * STEPS, facts='{"device": "cpu"}',
            differs=["packages"], process_group=f"{gpu} {arm} {trial}", environment={"hardware": {"gpu": gpu}},
            packages=None if arm == "ddp" else json.dumps({"deepspeed": arm.split()[1]}))
        for number, (gpu, new) in enumerate((("H100", 1.2), ("A100", 0.6)))
        for trial in range(3)
        for arm, step in {"ddp": 0.5, OLD: 0.9, NEW: new}.items()
    ]  # fmt: skip
    found = compare_versions(write(tmp_path / "legs.parquet", rows), [OLD, NEW])[1]
    newer = {v.setting.rpartition(", ")[2]: v.against_first for v in found if v.arm == NEW}
    ratios = {name: c.speedup.value for name, c in newer.items() if c is not None}
    assert ratios == {"A100": pytest.approx(0.9 / 0.6), "H100": pytest.approx(0.9 / 1.2)}


def off(size: float, step: int) -> np.ndarray:
    """Factors that are `size` off from a step (counted from 1) on."""
    return np.where(np.arange(STEPS) >= step - 1, 1 + size, 1.0)


def test_a_slower_version_hurts_and_trains_the_same(tmp_path: Path) -> None:
    old, new = versions(tmp_path)
    assert (old.against_first, old.training, new.training) == (None, "same", "same")
    assert new.against_first is not None
    assert new.against_first.verdict == "hurts"
    assert new.against_first.speedup.value == pytest.approx(0.9 / 1.2)
    assert [is_worse(new, kinds) for kinds in (["hurts"], ["differs"], ["failed"])] == [True, False, False]


@pytest.mark.parametrize(
    ("what", "size", "training"),
    [
        ("norms", 0.01, "differs from step 4"), ("norms", 1e-7, "same"), ("losses", 1e-4, "differs from step 4"),
        ("losses", 1e-8, "same"),
    ],
)  # fmt: skip
def test_training_that_differs_is_told_with_its_step(tmp_path: Path, what: str, size: float, training: str) -> None:
    assert versions(tmp_path, **{what: off(size, 4)})[1].training == training


def test_an_error_in_a_gradient_that_no_loss_shows_differs(tmp_path: Path) -> None:
    """Adam takes the same steps with gradients that are all twice as large."""
    new = versions(tmp_path, norms=off(1.0, 1))[1]
    assert new.training == "differs from step 1"
    assert is_worse(new, ["differs"])
    assert not is_worse(new, ["failed"])


def test_such_arms_are_told_to_have_had_processes_and_libraries_of_their_own(tmp_path: Path) -> None:
    _, new = versions(tmp_path)
    caveats = "\n".join(map(str, new.against_baseline.caveats))
    assert f"{NEW} and ddp did not share processes" in caveats
    assert f"the packages of {NEW} changed numpy to 2.3; ddp had 2.4" in caveats
    assert "changed deepspeed" not in caveats


def test_a_declared_difference_leaves_the_training_unknown(tmp_path: Path) -> None:
    rows = [
        leg(arm, trial, step_losses=[1.0, 2.0], differs=["optimizer"], facts='{"device": "cpu"}')
        for trial in range(2) for arm in ("ddp", OLD)
    ]  # fmt: skip
    (found,) = compare_versions(write(tmp_path / "legs.parquet", rows), [OLD])[1]
    assert found.training == "not known"


def test_arms_of_one_environment_have_no_such_caveat(tmp_path: Path) -> None:
    rows = [leg(arm, trial, process_group=str(trial)) for trial in range(3) for arm in ("ddp", "zero1")]
    (found,) = analyse([write(tmp_path / "legs.parquet", rows)]).comparisons
    assert not any("share processes" in str(caveat) for caveat in found.caveats)
