"""What the documents show is true: their commands parse, their spaces load, the files that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.__main__ import main as raybench
from raybench.declare.setting import Setting
from raybench.declare.space import Space, load_space
from tests.analysis.ledgers import paired, write
from tests.conftest import ROOT

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


def inner_command(line: str) -> list[str]:
    """The words of a command of ours, also where it is to be run on a cluster: `ray exec cluster.yaml 'COMMAND'`."""
    words = shlex.split(line)
    inner = [word for word in words if "raybench." in word and " " in word]
    return shlex.split(inner[0]) if inner else words


def test_there_is_something_to_check() -> None:
    assert len([line for line in shell_commands() if "raybench.sweep" in line]) >= 3
    assert blocks("yaml")


@pytest.mark.parametrize(
    "line", [line for line in shell_commands() if "raybench.sweep" in line or "raybench.plan" in line]
)
def test_sweeps_of_the_documents_would_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in inner_command(line) if "=" in word]
    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "path/to/mine.yaml").write_text((ROOT / "search_spaces/cnns.yaml").read_text())
    write_named_blocks(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert raybench(["plan", *words]) == 0


def write_named_blocks(folder: Path) -> None:
    """Write the documents' blocks that begin with the name of a file, as `# convnet.py`."""
    for language in ("python", "yaml"):
        for block in blocks(language):
            if name := re.match(r"# (\w+\.(?:py|yaml))\n", block):
                (folder / name[1]).write_text(block)


def test_the_tutorials_space_is_what_its_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_named_blocks(tmp_path)
    shown = yaml.safe_load((tmp_path / "convnet.yaml").read_text())
    (line,) = [line for line in shell_commands() if "raybench.init convnet.yaml" in line]
    assert raybench(["init", *shlex.split(line)[3:], "--force"]) == 0
    assert yaml.safe_load((tmp_path / "convnet.yaml").read_text()) == shown


READERS = ("analysis", "report", "compare", "predict", "sync", "verify")


def reading_commands() -> list[str]:
    """Commands that take a ledger, each once."""
    found = [line for line in shell_commands() if re.match(rf"python -m raybench\.({'|'.join(READERS)}) mlruns", line)]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the ledgers lie that the documents speak of."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("quickstart/friday", "quickstart/trained", "cnns/friday", "cnns/may", "cnns/june", "convnet/first"):
        space, sweep = name.split("/")
        reached = {"protocol": '{"target_accuracy": 0.5}', "accuracy": 0.9} if sweep == "trained" else {}
        rows = [dict(row, space=space, sweep=sweep, **reached) for row in paired([1.01, 1.02, 1.0, 1.01])]
        write(folder / "mlruns/ledger" / name / "legs.parquet", rows)
    return folder


def test_there_are_reading_commands_to_check() -> None:
    assert {line.split()[2].removeprefix("raybench.") for line in reading_commands()} >= {"analysis", "report", "sync"}


@pytest.mark.parametrize("line", reading_commands())
def test_reading_commands_of_the_documents_run(line: str, ledgers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ledgers)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{ledgers}/mlflow.db")
    words = shlex.split(re.sub(r"\[[^\]]*\]", "", line))[2:]  # [key=value] may be left out
    command = words.pop(0).removeprefix("raybench.")
    expanded = [str(path) for word in words for path in (sorted(ledgers.glob(word)) if "*" in word else [word])]
    assert raybench([command, *expanded]) == 0


@pytest.mark.parametrize("line", dict.fromkeys(line for line in shell_commands() if " results/" in line))
def test_commands_on_the_results_that_ship_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command, *words = shlex.split(line)[2:]
    assert command == "raybench.analysis"  # it only reads
    assert raybench(["analysis", *words]) == 0


def test_every_command_of_the_documents_is_known() -> None:
    ours = {word for line in shell_commands() for word in re.findall(r"\braybench\.(\w+)", line)}
    others = {line.split()[0] for line in shell_commands() if "raybench." not in line}
    assert ours - {"training"} <= {path.stem for path in (ROOT / "raybench").iterdir()}
    assert others <= {"make", "mlflow", "ray", "export", "pip", "source", "torchrun", "eval", "raybench", "aws", "ssh"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_the_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def test_the_model_of_the_documents_is_one() -> None:
    import torch

    (code,) = [block for block in blocks("python") if "def tiny" in block]
    scope: dict[str, Any] = {"__name__": "mynet"}
    exec(code, scope)
    model = scope["tiny"](num_classes=10, in_chans=3, image_size=32, width=16)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("line", [line for line in shell_commands() if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_spaces_of_the_documents_load(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "documented.yaml"
    path.write_text(text)
    write_named_blocks(tmp_path)
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    load_space(str(path))


def test_the_annotated_tree_names_what_is_there() -> None:
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    there = {path.name for path in (ROOT / "raybench").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == there
    folders = {path.parent.name for path in (ROOT / "raybench").glob("*/__init__.py")}
    assert set(re.findall(r"\b(\w+)/", tree)) >= folders


def test_every_key_of_a_space_has_an_example() -> None:
    text = (ROOT / "docs" / "spaces.md").read_text()
    spaces = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert {key for space in spaces for key in space} == set(Space.model_fields) | {"sizes"}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) >= set(Setting.model_fields) | {"stem", "resize"}
