"""Something that hogs a processor in the middle of a sweep: its legs are flagged, and the verdict does not turn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raybench.analysis import analyse
from raybench.declare.plan import build_plan
from raybench.declare.space import Space
from raybench.ledger.dataset import Ledger
from tests.training.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Hogs as many processors as it is told, from the moment the ledger holds so many legs until so many more are there.
HOG = """
import multiprocessing, os, sys, time
from pathlib import Path

def spin():
    os.setsid()  # as torchrun's processes: Linux may share processors between sessions
    while True: pass

ledger, first, count, processes = Path(sys.argv[1]), *map(int, sys.argv[2:])
def wait_for(legs):
    while len(list(ledger.glob("leg-*.parquet"))) < legs: time.sleep(0.02)

wait_for(first)
hogs = [multiprocessing.Process(target=spin, daemon=True) for _ in range(processes)]
for hog in hogs: hog.start()
wait_for(first + count)
for hog in hogs: hog.kill()
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four trials of an arm against itself; a hog works beside the legs of the second."""
    folder = tmp_path_factory.mktemp("hog")
    setting = {"model": "lenet", "dataset": "synthetic", "batch_size": 64, "workers": 2}
    arms = {"ddp": {"engine": "torch"}, "again": {"engine": "torch"}}
    protocol = {"warmup_steps": 5, "steps": 150, "rounds": 2}
    space = Space.model_validate({"setting": setting, "arms": arms, "protocol": protocol, "repeats": 4})
    (folder / "plan.json").write_text(build_plan("hog", space).model_dump_json())
    hog = subprocess.Popen([sys.executable, "-c", HOG, str(folder / "led"), "4", "4", "2"])
    try:
        torchrun(2, "raybench.training", str(folder / "plan.json"), f"ledger={folder / 'led'}")
    finally:
        hog.kill()
        hog.wait()
    return folder / "led"


def by_repeat(ledger: Path) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in pq.read_table(ledger).to_pylist():
        rows.setdefault(row["repeat"], []).append(row)
    return rows


def test_the_hogs_legs_are_flagged_and_its_share_is_in_the_row(ledger: Path) -> None:
    rows = by_repeat(ledger)
    # The first leg's window may be over before the hog is at work, and other work may flag other legs.
    assert sum("foreign CPU use" in row["contaminated"] for row in rows[1]) >= 3
    assert sorted(row["foreign_cpu_cores"] for row in rows[1])[1] > 0.5
    for row in rows[1]:
        (node,) = json.loads(row["telemetry"])
        assert node["host"]["foreign_cores"] == row["foreign_cpu_cores"]
        # Every rank passes the window's steps in it; the sum of the slowest rank's steps may be a little longer.
        assert sum(row["step_seconds"][5:]) < 1.5 * node["seconds"] + 0.1


def test_an_a_a_sweep_with_a_hog_in_it_claims_no_effect_of_the_arm(ledger: Path) -> None:
    assert len(Ledger(ledger).leg_ids()) == 16
    (comparison,) = analyse([ledger], alpha=0.01).comparisons
    assert comparison.verdict in ("undecided", "no effect")
    (contaminated,) = (one.text for one in comparison.caveats if one.kind == "contaminated")
    assert "foreign CPU use in" in contaminated
    if not contaminated.startswith("16 of 16 "):  # as where other work goes on all the time
        assert "clean legs only" in [other.kind for other in comparison.sensitivity]
