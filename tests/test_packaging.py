"""What a wheel holds, and what reading needs: every folder of the package, and no library of the extra `run`."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import ROOT, command_environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_the_package_is_in_the_wheel() -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "raybench").rglob("*.py")}
    named = set(PROJECT["tool"]["setuptools"]["packages"]) - {"raybench.search_spaces"}
    assert {str(folder).replace("/", ".") for folder in folders} == named


def test_reading_needs_no_library_of_the_extra_run(tmp_path: Path) -> None:
    run = PROJECT["project"]["optional-dependencies"]["run"]
    names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in run}
    absent = names - {"setuptools", "ninja", "nvidia_ml_py"} | {"grpc", "pynvml"}
    script = f"""
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
hidden = lambda name, *rest: None if name.partition(".")[0] in {absent!r} else find(name, *rest)
importlib.machinery.PathFinder.find_spec = hidden
from raybench.cli import main
sys.exit(main(sys.argv[1:]))
"""
    ledger = str(ROOT / "results/zero/small")
    report = ["report", ledger, f"out={tmp_path}"]
    for command in (["analysis", ledger, "--csv"], report, ["plan", "space=lenet", "size=small"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            capture_output=True, text=True, env=command_environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
