"""The surroundings that a Ray of one's own needs: said in one line before anything starts, or set right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raybench.cluster.surroundings import check_surroundings, folder_problem, set_variables
from raybench.doctor.hardware import temporary_folder
from raybench.errors import UserError
from tests.conftest import Commands

LONG = "/tmp/" + "x" * 120


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        ("TMPDIR", LONG, "too long for Ray's sockets: 125 characters"),
        ("RAY_TMPDIR", LONG, "too long for Ray's sockets"),
        ("RAY_TMPDIR", "/proc/x", "/proc cannot be written"),
        ("RAY_TMPDIR", "/dev/null", "/dev/null is no folder"),
    ],
)
def test_a_folder_that_ray_cannot_use_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, folder: str, words: str
) -> None:
    monkeypatch.setenv(name, folder)
    with pytest.raises(UserError) as refusal:
        check_surroundings()
    assert str(refusal.value).startswith(f"{name}={folder}")
    assert words in str(refusal.value)
    assert str(refusal.value).endswith("set RAY_TMPDIR=/tmp")
    finding = temporary_folder()
    assert (finding.status, words in finding.found) == ("error", True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # the folder of another machine
    check_surroundings()


def test_ray_tmpdir_is_the_remedy_for_a_long_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert folder_problem() == ""


def test_variables_that_raybench_relies_on_are_set_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "0")
    monkeypatch.setenv("HOME", "/proc/x")
    for name in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "RAY_AIR_NEW_OUTPUT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_variables()
    assert os.environ["RAY_TRAIN_V2_ENABLED"] == "1"
    assert os.environ["TORCH_EXTENSIONS_DIR"].startswith("/tmp/")


def test_a_variable_that_turns_ray_into_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_LOCAL_MODE", "1")
    with pytest.raises(UserError, match="unset RAY_LOCAL_MODE"):
        check_surroundings()


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_plan_and_sweep_refuse_alike_and_write_nothing(tmp_path: Path, command: str) -> None:
    commands = Commands(tmp_path)
    commands.environment |= {"RAY_TMPDIR": LONG, "RAY_ADDRESS": "local"}
    done = commands.run(command, "space=quickstart")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "set RAY_TMPDIR=/tmp" in done.stderr
    assert list(tmp_path.iterdir()) == []
