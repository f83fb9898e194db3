"""What the documents show is true: their commands parse, their spaces load, the files that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from raybench.setting import Setting
from raybench.space import Space, load_space
from tests.conftest import ROOT, Commands

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return [
        block
        for document in DOCUMENTS
        for block in re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)
    ]


def shell_commands() -> list[str]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_there_is_something_to_check() -> None:
    assert len([line for line in shell_commands() if "raybench.sweep" in line]) >= 3
    assert blocks("yaml")


@pytest.mark.parametrize(
    "line", [line for line in shell_commands() if "raybench.sweep" in line or "raybench.plan" in line]
)
def test_sweeps_of_the_documents_would_run(line: str, commands: Commands) -> None:
    words = [word for word in shlex.split(line) if "=" in word]
    (commands.folder / "path/to").mkdir(parents=True)
    (commands.folder / "path/to/mine.yaml").write_text((ROOT / "search_spaces/cnns.yaml").read_text())
    done = commands.run("plan", *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [line for line in shell_commands() if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_spaces_of_the_documents_load(text: str, tmp_path: Path) -> None:
    path = tmp_path / "documented.yaml"
    path.write_text(text)
    load_space(str(path))


def test_the_annotated_tree_names_what_is_there() -> None:
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    there = {path.name for path in (ROOT / "raybench").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named <= there
    assert there - named <= {"cli.py", "errors.py"}


def test_every_key_of_a_space_has_an_example() -> None:
    text = (ROOT / "docs" / "spaces.md").read_text()
    spaces = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert {key for space in spaces for key in space} == set(Space.model_fields) | {"sizes"}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) >= set(Setting.model_fields) | {"stem", "resize"}
