"""The page before axe-core, the accessibility checker, in a real browser: at a desk, on a phone, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

AXE = ROOT / "node_modules/axe-core/axe.min.js"
RUN = """
const [seen] = arguments;
axe.run(document, { resultTypes: ["violations"] }).then((found) => seen(found.violations.map(
  (one) => [one.impact, one.id, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))])));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)")
    if not AXE.is_file():
        pytest.skip("no axe-core in the working tree (npm install --no-save --no-package-lock axe-core@4.14.1)")
    from tests.browser import chrome

    found = chrome(chromium, driver, tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


def violations(browser: Any, page: Path, width: int, scheme: str) -> list[Any]:
    """What axe-core finds on a page: (impact, rule, elements)."""
    browser.set_window_size(width, 1000)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found: list[Any] = browser.execute_async_script(RUN)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [500, 1400])
def test_axe_has_nothing_serious_to_say(browser: Any, written: Path, width: int, scheme: str) -> None:
    found = violations(browser, written / "report.html", width, scheme)
    assert [one for one in found if one[0] in ("serious", "critical")] == []


def test_axe_does_complain_of_a_bad_page(browser: Any, tmp_path: Path) -> None:
    """The control: what the test above would see."""
    page = tmp_path / "bad.html"
    page.write_text("<!DOCTYPE html><html><body><img src='x.png'><p style='color:#eee'>faint</p></body></html>")
    rules = {one[1] for one in violations(browser, page, 1400, "light")}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= rules
