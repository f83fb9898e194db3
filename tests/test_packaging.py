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
from raybench.__main__ import main
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


def metadata(tmp_path: Path, repository: str) -> tuple[int, str]:
    """The return code, and the metadata of a build for that address, or what the build said."""
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    environment = command_environment(RAYBENCH_REPOSITORY=repository)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = tmp_path / "raybench.egg-info/PKG-INFO"
    return done.returncode, found.read_text(encoding="utf-8") if done.returncode == 0 else done.stderr


def test_with_an_address_a_package_index_shows_links_and_images(tmp_path: Path) -> None:
    returned, text = metadata(tmp_path, "https://example.org/someone/raybench/")
    assert returned == 0, text
    at = f"v{PROJECT['project']['version']}"
    assert "Project-URL: Issues, https://example.org/someone/raybench/issues" in text
    figure = "results/zero/small/_report/figures/forest.svg"
    assert f"](https://example.org/someone/raybench/raw/{at}/{figure})" in text
    assert f"](https://example.org/someone/raybench/blob/{at}/results/README.md#one-h200)" in text
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert len(targets) > 30
    assert [target for target in targets if not target.startswith("https://")] == []


def test_without_an_address_the_readme_stays_as_it_is(tmp_path: Path) -> None:
    returned, text = metadata(tmp_path, "")
    assert returned == 0, text
    assert "Project-URL" not in text
    assert (ROOT / "README.md").read_text(encoding="utf-8") in text


def test_what_is_no_address_is_refused_in_one_line(tmp_path: Path) -> None:
    returned, text = metadata(tmp_path, "example.org/raybench")
    assert returned == 1
    assert (
        text.strip() == "RAYBENCH_REPOSITORY=example.org/raybench: not an address such as https://HOST/OWNER/raybench"
    )
