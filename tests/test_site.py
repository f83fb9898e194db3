"""The documentation's site: built with warnings as errors, complete, and without anything that a network would give."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, command_environment

pytest.importorskip("mkdocs", reason="no mkdocs (pip install 'raybench[docs]')")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, as `mkdocs build --strict` makes it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**command_environment(), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_search_finds_the_api(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    pages |= {"index", "contents", "contributing", "changelog", "results"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"] for entry in index["docs"]}
    for name in ("api.analyse", "api.plan", "api.Answer.to_pandas", "analysis.results.Comparison", "steps.Recorder"):
        assert f"reference.html#raybench.{name}" in found


def test_the_reference_has_the_fields_of_records(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference.html").read_text(encoding="utf-8"))
    assert "p_adjusted: float | None" in text
    assert "Bases: " not in text  # private ones


def test_long_commands_wrap(site: Path) -> None:
    assert ".language-sh" in (site / "stylesheets/raybench.css").read_text(encoding="utf-8")
    assert '<div class="language-sh highlight">' in (site / "tutorial.html").read_text(encoding="utf-8")


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link)[^>]*?(?:src|href)=\"?(https?://[^\"\s>]+)", text)
        assert loaded == [], page.name


def test_links_to_files_of_the_repository_lead_somewhere(site: Path) -> None:
    for page in set(site.glob("*.html")) - {site / "404.html"}:  # its links begin at the server's root
        for link in re.findall(r"(?:src|href)=\"([^\"#:?]+)[\"#?]", page.read_text(encoding="utf-8")):
            target = Path(os.path.normpath(page.parent / link))
            assert target.exists(), f"{page.name}: {link}"
