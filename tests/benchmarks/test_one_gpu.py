"""The script for a machine with one GPU: every stage is tried, stages go on where they ended, limits are kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest

from raybench.ledger.reading import read_ledger
from tests.conftest import ROOT, command_environment

pytestmark = pytest.mark.slow
STAGES = ("doctor", "correctness", "known", "paper", "gpt", "neutrality", "unlock", "versions", "ladder")


def one_gpu(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/one_gpu.py", "size=tiny", *words], cwd=ROOT,
        env=command_environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=1100, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("RAYBENCH_TEST_STAGES") != "1":
        pytest.skip("make test-stages runs it")
    folder: Path = tmp_path_factory.mktemp("gpu") / "seen"
    done = one_gpu("minutes=100", f"out={folder}")
    logs = "\n".join(f"{log}:\n{log.read_text()[-1500:]}" for log in folder.glob("*/log.txt"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:] + logs
    return folder


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^- (.*): ([^:]*)$", table, flags=re.MULTILINE))


def test_every_stage_says_what_it_saw(out: Path) -> None:
    table = (out / "table.md").read_text()
    assert tuple(re.findall(r"^## (\w+): done", table, flags=re.MULTILINE)) == STAGES
    assert "nothing to read" not in table
    assert not re.search(r"^- \w+ failed: ", table, flags=re.MULTILINE)
    found = rows(table)
    assert float(found["largest loss difference, fp32"].split()[0]) < 1e-4
    for name, wanted in (
        ("model states, plain torch, fp32 AdamW", 16),
        ("model states, plain torch, fp32 SGD with momentum", 12),
        ("model states, ZeRO-1, bf16 weights, AdamW", 16),
        ("of these the optimizer's", 12),
    ):
        assert float(found[name].split()[0]) == pytest.approx(wanted, rel=0.03), name
    assert float(found["loop over a hand-written one, DeepSpeed alone"].split()[0]) > 0.2
    for space in ("paper", "gpt", "unlock", "installed", "ladder"):
        legs, failed = map(int, found[f"{space}: legs, of which failed"].split(", "))
        assert (legs >= 2, failed) == (True, 0), space
    assert re.search(r"^- gpt: .*: zero3: .* tokens/s, ", table, flags=re.MULTILINE)
    with tarfile.open(out.with_suffix(".tar.gz")) as archive:
        names = set(archive.getnames())
    assert {"seen/table.md", "seen/doctor/doctor.json", "seen/gpt/gpt.json", "seen/neutrality/deepspeed.json"} <= names
    assert any(re.fullmatch(r"seen/gpt/ledgers/gpt/.*\.parquet", name) for name in names)


def test_a_stage_that_was_cut_off_goes_on_with_the_legs_that_are_missing(out: Path) -> None:
    ledger, status = out / "versions/ledgers/installed", out / "versions/stage.json"
    before = read_ledger(ledger, ["leg_id", "started_at"]).to_pylist()
    status.write_text(json.dumps({"how": "ended after 3 s", "seconds": 3.0}))
    done = one_gpu("minutes=9", f"out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\w+): done$", done.stdout, flags=re.MULTILINE) == ["versions"]
    assert read_ledger(ledger, ["leg_id", "started_at"]).to_pylist() == before


def test_a_limit_ends_all_that_a_stage_started(tmp_path: Path) -> None:
    done = one_gpu("minutes=0.3", f"out={tmp_path}/cut", "stages=paper")
    assert re.search(r"^paper: ended after \d s$", done.stdout, flags=re.MULTILINE), done.stdout + done.stderr
    left = [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])]
    assert left == []


def test_a_stage_that_is_not_there_is_named() -> None:
    done = one_gpu("stages=paper,gtp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "stages=gtp" in done.stderr
    assert "gpt" in done.stderr
