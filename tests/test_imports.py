"""Data flows one way, and so do imports: who may import ray, torch, deepspeed and mlflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, command_environment

PACKAGE = ROOT / "raybench"
HEAVY = {"ray", "torch", "deepspeed", "mlflow", "timm", "torchvision"}
ALLOWED = {
    "ray": {
        *("trial", "endings", "deaths", "orphans", "authentication", "connection", "nodes", "process_group"),
        *("schedule", "reuse"),
    },
    "mlflow": {"mlflow_runs"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    room = path.relative_to(PACKAGE)
    found = imported(path) & HEAVY
    in_training = room.parts[0] == "training"
    assert "ray" not in found or room.stem in ALLOWED["ray"], "only what talks to Ray imports it"
    assert "mlflow" not in found or room.stem in ALLOWED["mlflow"]
    if room.stem not in ALLOWED["ray"]:
        assert in_training or not found & {"torch", "timm", "torchvision", "deepspeed"}
    if "deepspeed" in found:
        assert room.name in ("deepspeed_engine.py", "deepspeed_ops.py", "optimizers.py", "probe.py")


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("raybench.plan", HEAVY),
        ("raybench.show.plan", HEAVY),
        ("raybench.sweep", HEAVY),
        ("raybench.driver.recorder", HEAVY),
        ("raybench.analysis.__main__", HEAVY),
        ("raybench.training.__main__", {"ray", "mlflow", "deepspeed", "timm"}),
        ("raybench.tracking.mlflow_runs", {"ray", "torch", "deepspeed", "timm"}),
    ],
)
def test_importing_a_module_pulls_in_nothing_it_must_not(module: str, banned: set[str]) -> None:
    script = f"import sys, {module}; print(*sorted({{n.partition('.')[0] for n in sys.modules}} & {banned!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=command_environment(), check=True
    )
    assert done.stdout.split() == []
