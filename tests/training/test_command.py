"""The process between a worker and a script: nothing of the command lives on, and how it ended is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from raybench.training.command import Ended, Request, asked

FORKS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
"""


def run(*words: str, folder: Path | str = ".", timeout: float = 120.0) -> Ended:
    return asked(Request(list(words), dict(os.environ), str(folder), timeout))


def gone(path: Path) -> bool:
    return not psutil.pid_exists(int(path.read_text()))


def test_a_script_that_hangs_is_killed_with_what_it_forked_away(tmp_path: Path) -> None:
    ended = run(sys.executable, "-c", FORKS, str(tmp_path / "pid"), "1000", timeout=3)
    assert ended.timed_out
    assert ended.exit_code is None
    assert gone(tmp_path / "pid")


def test_what_outlives_its_parent_is_killed_and_counted(tmp_path: Path) -> None:
    ended = run(sys.executable, "-c", FORKS, str(tmp_path / "pid"), "0")
    assert (ended.exit_code, ended.left_behind, ended.timed_out) == (0, 1, False)
    assert gone(tmp_path / "pid")


def test_nothing_lives_on_when_the_worker_is_killed(tmp_path: Path) -> None:
    request = Request([sys.executable, "-c", FORKS, str(tmp_path / "pid"), "1000"], dict(os.environ), ".", 1000)
    supervisor = subprocess.Popen([sys.executable, "-m", "raybench.training.command"], stdin=subprocess.PIPE)
    assert supervisor.stdin is not None
    supervisor.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
    supervisor.stdin.flush()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    supervisor.stdin.close()  # as when the worker dies
    assert supervisor.wait(timeout=30) == 0
    assert gone(tmp_path / "pid")


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("import os; os.kill(os.getpid(), 11)", -11, ""),
        ("raise ValueError('what was wrong')", 1, "ValueError: what was wrong"),
        ("import os; os.write(1, bytes(range(256)) * 2000)", 0, "xyz{|}~"),
        ("print('last')", 0, "last"),
    ],
)
def test_how_it_ended_and_the_last_it_said(code: str, exit_code: int, words: str) -> None:
    ended = run(sys.executable, "-c", code)
    assert ended.exit_code == exit_code
    assert words in ended.tail
    assert len(ended.tail) <= 1 << 16
    assert 2**20 < ended.peak_bytes < 2**34
    assert ended.seconds > 0


@pytest.mark.parametrize(("words", "folder"), [(["/no/such/program"], "."), ([sys.executable], "/no/such/folder")])
def test_what_cannot_be_started_says_so(words: list[str], folder: str) -> None:
    assert "No such file" in run(*words, folder=folder).problem
