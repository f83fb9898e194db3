"""What counts as the machine, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raybench.analysis import analyse
from raybench.analysis.arrays import hardware_of, versions_of
from tests.analysis.ledgers import paired, write


@pytest.mark.parametrize(
    ("environment", "hardware"),
    [
        ({}, ""),
        ({"node": "n1", "trial_process": 7}, ""),
        ({"cpu": "EPYC", "cpu_cores": 64, "node": "n1"}, "EPYC, 64 cpu cores"),
        ({"gpu": "H100", "gpu_uuid": "GPU-1", "cpu": "EPYC"}, "H100, EPYC"),
        ({"gpus": ["H100", "H100", "A100"]}, "2 x H100, A100"),
        ({"gpus": [{"name": "H100", "uuid": "1"}, {"name": "H100", "uuid": "2"}]}, "2 x H100"),
        ({"hardware": {"gpu": "H100", "clock_mhz": 1980, "temperature": 40}, "cpu": "ignored"}, "H100"),
        ({"cpu": {"model": "EPYC", "frequency": 2893.2}}, "EPYC"),
    ],
)
def test_twins_are_one_hardware_and_readings_are_none(environment: dict[str, Any], hardware: str) -> None:
    assert hardware_of(environment) == hardware


def test_versions() -> None:
    environment = {"packages": {"torch": "2.13", "deepspeed": None}, "python": "3.11", "git_commit": "0123456789abcdef"}
    assert versions_of(environment) == {"torch": "2.13", "python": "3.11", "git_commit": "0123456789ab"}


def test_repeats_of_a_setting_on_several_kinds_of_machines_are_several_comparisons(tmp_path: Path) -> None:
    rows = paired([1.2, 1.21, 1.19, 1.2], environment={"gpu": "A100"})
    other = paired([0.9, 0.91, 0.89, 0.9], environment={"gpu": "H100"})
    for row in other:  # the later repeats of the same setting
        row["repeat"] += 4
        row |= {"trial_id": f"s0-{row['repeat']}", "leg_id": f"s0-{row['repeat']}-{row['arm']}-0"}
    analysis = analyse([write(tmp_path / "legs.parquet", [*rows, *other])])
    found = sorted((one.n_trials, round(one.speedup.value or 0, 2), one.verdict) for one in analysis.comparisons)
    assert found == [(4, 0.9, "hurts"), (4, 1.2, "helps")]
