"""Arms with package versions of their own, on real Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 16}
arms: {plain: {engine: torch}, other: {engine: deepspeed, packages: {deepspeed: 0.0.1}}}
protocol: {warmup_steps: 1, steps: 3, rounds: 1, telemetry: false}
repeats: 1
"""


def test_a_version_that_cannot_be_had_is_told_before_the_first_leg_and_the_others_run(
    tmp_path: Path, ray_address: str
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    done = Commands(tmp_path, ray_address).run("sweep", "space=space.yaml", "sweep=v")
    assert done.returncode == 0, done.stdout + done.stderr
    before, _, after = done.stdout.partition("[1/2]")
    assert "making an environment with deepspeed 0.0.1 ..." in before
    (line,) = (line for line in before.splitlines() if line.startswith("no environment with deepspeed 0.0.1: "))
    assert line.endswith("; its legs fail as unsupported, the others run")
    assert "[2/2]" in after
    rows = {row["arm"]: row for row in pq.read_table(tmp_path / "mlruns/ledger/space/v").to_pylist()}
    assert rows["plain"]["status"] == "ok"
    assert (rows["other"]["failure_kind"], rows["other"]["packages"]) == ("unsupported", '{"deepspeed": "0.0.1"}')
    assert rows["other"]["failure_message"].startswith("no environment with deepspeed 0.0.1: ")
