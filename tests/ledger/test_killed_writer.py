"""A writer that is killed at any moment, on a disk as slow as one likes: every file of the ledger reads back whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from raybench.ledger.dataset import Ledger
from raybench.ledger.reading import read_file
from tests.conftest import ROOT, command_environment

KILLS = 12
# Writes rows as fast as it can; each flush to the disk takes some milliseconds more than it would.
WRITER = """
import os, sys, time
from pathlib import Path
from raybench.ledger import columns, dataset
from tests.ledger.test_dataset import MEASUREMENT, first_leg

row = columns.build_row("s", "quickstart", *first_leg(), MEASUREMENT)
flush = os.fsync
os.fsync = lambda file: (time.sleep(0.004), flush(file))
folder = Path(sys.argv[1])
for number in range(int(sys.argv[2]), 10**9):
    dataset.write_rows(folder, f"leg-{number:06}", [dict(row, leg_id=f"{number:06}", repeat=number)])
    print(number, flush=True)
"""


def test_every_file_reads_back_after_kills_at_random_moments(tmp_path: Path) -> None:
    moments = random.Random(20_260_724)
    folder, durable = tmp_path / "led", -1
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(durable + 1)], cwd=ROOT, env=command_environment(),
            stdout=subprocess.PIPE, text=True,
        ) as writer:  # fmt: skip
            assert writer.stdout is not None
            assert writer.stdout.readline()  # it writes
            time.sleep(moments.uniform(0, 0.1))
            writer.send_signal(signal.SIGKILL)
            told = writer.stdout.read().split()
        durable = max([durable + 1, *map(int, told)])  # what it said was durable when it was killed
        files = sorted(folder.glob("*.parquet"))
        for file in files:
            (row,) = read_file(file).to_pylist()
            assert file.stem == f"leg-{row['repeat']:06}"
        assert len(files) > durable
    ledger = Ledger(folder)
    assert ledger.set_aside() == []
    assert len(ledger.leg_ids()) == len(list(folder.glob("*.parquet")))
    assert list(folder.glob(".*")) == []  # what the kills cut off went when the ledger was looked over
