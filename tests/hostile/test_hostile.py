"""Every wrong input ends in one line that says what is wrong, soon, in little memory, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Commands, command_environment
from tests.hostile.corpus import COMMANDS, GOOD, TEXTS, Case, cases

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What came of each case, run in an empty folder."""
    file = tmp_path_factory.mktemp("file") / "bad.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.run", str(file)],
        cwd=folder, env=command_environment(), capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.fixture(scope="module")
def wrong(results: Results) -> Results:
    return {name: result for name, result in results.items() if not result["may_pass"] or result["code"] != 0}


def test_the_corpus_is_as_large_as_it_says(results: Results) -> None:
    assert len(results) == len(list(cases())) >= 1000


def test_each_ends_with_exit_code_2(wrong: Results) -> None:
    assert {name: (r["code"], r["failure"]) for name, r in wrong.items() if r["code"] != 2} == {}


def test_each_says_one_line_that_a_terminal_can_show(wrong: Results) -> None:
    for name, result in wrong.items():
        error = result["error"]
        assert error.startswith("raybench: "), name
        assert error.endswith("\n"), name
        assert error[:-1].isprintable(), name
        assert 20 < len(error) < 2000, name
        assert "Traceback" not in error, name
        assert result["out"] == 0, name


def test_a_wrong_value_is_found_at_its_line_and_key(wrong: Results) -> None:
    """Those of the corpus that write one wrong value into a good space; a bare reference may be found at either end."""
    top = set(GOOD) - {"differs", "baseline"}
    lost = []
    for name, result in wrong.items():
        place = name.partition(":")[0].split(".")
        if place[0] in top and not re.search(r"bad\.yaml:\d+: ", result["error"]):
            lost.append((name, result["error"]))
    assert lost == []


def test_none_takes_long_or_much(results: Results) -> None:
    assert {name: r["seconds"] for name, r in results.items() if r["seconds"] > 3} == {}
    assert max(r["peak_mib"] for r in results.values()) < 512


def test_nothing_is_written_and_nothing_runs(results: Results, folder: Path) -> None:
    assert results
    assert list(folder.iterdir()) == []


def test_the_good_one_is_good(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "good.yaml").write_text(yaml.safe_dump(GOOD))
    done = Commands(tmp_path).run("plan", "space=good.yaml")
    assert done.returncode == 0, done.stderr


SOME = [*list(COMMANDS)[::9], "text: a billion laughs", "text: a python object", "text: interpolation doubled"]


@pytest.mark.parametrize("name", SOME)
def test_the_sweep_refuses_as_the_plan_does(tmp_path: Path, name: str) -> None:
    text = TEXTS.get(name.removeprefix("text: "))
    case = Case(name, text, ["space=../bad.yaml"] if text is not None else COMMANDS[name])
    if any("\0" in token or "\udc80" in token for token in case.argv):
        pytest.skip("no process can be given such an argument")
    if text is not None:
        (tmp_path / "bad.yaml").write_text(text)
    folder = tmp_path / "in"
    folder.mkdir()
    done = Commands(folder).run("sweep", *case.argv)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []
