"""Imports go one way: no circle, no arrow that runs up, and heavy libraries only where they are at home."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from raybench import manuals
from tests.conftest import ROOT, command_environment

PACKAGE = ROOT / "raybench"
COMMANDS = {
    "api", "calibrate", "compare", "completion", "init", "list", "open", "pair", "plan", "predict", "report", "sweep",
    "sync", "tune", "verify", "versions", "__main__",
}  # fmt: skip
# What everybody may import: these lie at the bottom, and import only each other.
GROUND = {"", "errors", "text", "caveats", "redaction", "child", "facts", "steps", "machine", "version"}
# A room -> the rooms that it may import, beside itself and the ground.
ARROWS: dict[str, set[str]] = {
    "manuals": set(),
    "cli": {"manuals"},
    "stores": set(),
    "telemetry": set(),
    "declare": {"stores"},
    "ledger": {"declare", "stores", "telemetry"},
    "statistics": {"declare", "stores"},
    "analysis": {"declare", "ledger", "statistics", "stores"},
    "cluster": {"declare"},
    "training": {"declare", "ledger", "statistics", "telemetry"},
    "calibration": {"analysis", "declare", "ledger", "statistics", "stores"},
    "show": {"analysis", "calibration", "cluster", "declare", "ledger", "statistics", "stores"},
    "tracking": {"analysis", "ledger", "show", "statistics", "stores"},
    "doctor": {"cluster", "declare", "ledger", "stores"},
    "driver": {
        "analysis",
        "calibration",
        "cluster",
        "declare",
        "ledger",
        "statistics",
        "show",
        "stores",
        "tracking",
        "training",
    },
}
EVERYTHING = set(ARROWS) | COMMANDS  # for commands, which nothing but commands imports
HEAVY = {"ray", "torch", "deepspeed", "mlflow", "timm", "torchvision"}
RAY = {
    "raybench.cluster.authentication", "raybench.cluster.connection", "raybench.cluster.environments",
    "raybench.cluster.nodes", "raybench.cluster.process_group",
    "raybench.cluster.ray_private", "raybench.driver.deaths", "raybench.driver.endings", "raybench.driver.proposals",
    "raybench.driver.searcher", "raybench.driver.schedule", "raybench.driver.trial",
}  # fmt: skip
MLFLOW = {"raybench.tracking.mlflow_runs"}
DEEPSPEED = {
    "raybench.training.engines.deepspeed_engine", "raybench.training.engines.deepspeed_ops",
    "raybench.training.engines.optimizers", "raybench.training.probes.deepspeed_schema",
    "raybench.training.probes.links_probe", "raybench.training.probes.probe",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported module; `typing_only` where it stands under `if TYPE_CHECKING`."""

    module: str
    typing_only: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its whole dotted path."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_of(module: str) -> frozenset[Import]:
    """All imports of a module, those inside functions too; of raybench's own the module, not the name in it."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    return frozenset(_imports(tree.body, typing_only=False))


def _imports(body: list[ast.stmt], *, typing_only: bool) -> Iterator[Import]:
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (Import(alias.name, typing_only) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "imports are absolute here"
            for alias in statement.names:
                whole = f"{statement.module}.{alias.name}"
                yield Import(whole if whole in modules() else str(statement.module), typing_only)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from _imports(statement.body, typing_only=True)
            yield from _imports(statement.orelse, typing_only=typing_only)
        else:
            for field in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(statement, field, []), typing_only=typing_only)
            for part in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                yield from _imports(part.body, typing_only=typing_only)


def own_imports(module: str) -> list[str]:
    """The modules of raybench's own that a module imports: at once, later in a function, or for its annotations."""
    return sorted({i.module for i in imports_of(module) if i.module in modules()} - {module})


def room(module: str) -> str:
    """The first folder of a module's path, or the module itself where it lies at the top; "" for the package.

    What `python -m` runs of a folder is a command.
    """
    return "__main__" if module.endswith(".__main__") else [*module.split("."), ""][1]


def may_import(importer: str, imported: str) -> bool:
    """Whether the house's table lets one room import another."""
    if imported in GROUND or importer == imported or (importer, imported) == ("", "api"):  # the package's own face
        return True
    return imported in (EVERYTHING if importer in COMMANDS else ARROWS.get(importer, set()))


def circle(graph: Mapping[str, list[str]]) -> list[str]:
    """One circle of a graph, its first member last again; empty where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in graph.get(node, []):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next(filter(None, (walk(node, []) for node in graph)), [])


def test_there_is_no_import_circle() -> None:
    graph = {module: own_imports(module) for module in modules()}
    assert " -> ".join(circle(graph)) == ""


def folder_graph(folder: str) -> dict[str, list[str]]:
    """What lies in a folder, files and folders, and which of them import which; without a folder's command."""
    graph: dict[str, set[str]] = {}
    for module in modules():
        if module.startswith(folder + ".") and not module.endswith(".__main__"):
            member = module.removeprefix(folder + ".").partition(".")[0]
            others = (one.removeprefix(folder + ".") for one in own_imports(module) if one.startswith(folder + "."))
            graph.setdefault(member, set()).update({other.partition(".")[0] for other in others} - {member})
    return {member: sorted(others) for member, others in graph.items()}


@pytest.mark.parametrize("folder", sorted({module.rpartition(".")[0] for module in modules()} - {""}))
def test_folders_and_files_beside_each_other_have_no_circle(folder: str) -> None:
    assert " -> ".join(circle(folder_graph(folder))) == ""


def test_a_files_name_says_which_it_is() -> None:
    names = Counter(path.name for path in modules().values() if path.name[:2] != "__")
    assert {name for name, count in names.items() if count > 1} == {"plan.py"}, "the command, and the plan it declares"


def test_folders_are_seen_as_their_files_import_each_other() -> None:
    assert folder_graph("raybench.analysis")["across"] == ["analysis", "arrays", "comparability", "results"]
    assert "declare" in folder_graph("raybench")["plan"]


def test_circles_are_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]


def test_the_table_of_rooms_has_no_circle() -> None:
    assert circle({name: sorted(others) for name, others in ARROWS.items()}) == []
    assert not GROUND & set(ARROWS)


def test_no_arrow_runs_up() -> None:
    upward = [
        f"{module} imports {imported}"
        for module in modules()
        for imported in own_imports(module)
        if not may_import(room(module), room(imported))
    ]
    assert upward == []


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_stay_in_their_rooms(module: str) -> None:
    names = {i.module.partition(".")[0] for i in imports_of(module) if not i.typing_only} & HEAVY
    assert "ray" not in names or module in RAY, "only what talks to Ray imports it"
    assert "mlflow" not in names or module in MLFLOW
    assert "deepspeed" not in names or module in DEEPSPEED
    if names & {"torch", "timm", "torchvision", "deepspeed"}:
        assert module.startswith("raybench.training.") or module in RAY


def test_every_package_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "raybench").rglob("__init__.py")}
    assert folders <= listed, folders - listed


def test_rooms_that_are_named_exist() -> None:
    assert not (RAY | MLFLOW | DEEPSPEED) - set(modules())


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("raybench.plan", HEAVY),
        ("raybench.show.outlook", HEAVY),
        ("raybench.sweep", HEAVY),
        ("raybench.driver.recorder", HEAVY),
        ("raybench.analysis.__main__", HEAVY),
        ("raybench.training.__main__", {"ray", "mlflow", "deepspeed", "timm"}),
        ("raybench.tracking.mlflow_runs", {"ray", "torch", "deepspeed", "timm"}),
        ("raybench.show.answer", {"matplotlib"}),
        ("raybench.training.worker", {"scipy", "sklearn", "pandas", "mlflow"}),
        ("raybench.driver.trial", {"scipy", "sklearn", "matplotlib", "mlflow"}),
    ],
)
def test_importing_a_module_pulls_in_nothing_it_must_not(module: str, banned: set[str]) -> None:
    script = f"import sys, {module}; print(*sorted({{n.partition('.')[0] for n in sys.modules}} & {banned!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=command_environment(), check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("command", "banned"),
    [
        # `python -m raybench.analysis` imports its package first.
        *((f"{name} --help", {"numpy", "pydantic", "rich", "yaml"}) for name in manuals.COMMANDS if name != "analysis"),
        ("plan space=quickstart results=none", {"pyarrow", "scipy.optimize", "pandas", "matplotlib"}),
    ],
)
def test_a_command_waits_for_nothing_that_it_does_not_use(command: str, banned: set[str], tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *f"raybench.{command}".split()],
        capture_output=True, text=True, env=command_environment(), check=True, cwd=tmp_path,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "raybench.cli" in imported
    assert imported & banned == set()
