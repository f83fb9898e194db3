"""The documents' pictures of MLflow, made anew from a ledger: a real server, a real browser.

    python -m docs.screenshots LEDGER

Wants Chromium and its driver (Debian: apt-get install chromium chromium-driver) and the test extras. Run it from the
root of the working tree. Writes docs/images/mlflow-arms.png and docs/images/mlflow-compare.png.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.by import By

from raybench.tracking import views
from raybench.tracking.publishing import publish
from tests.browser import chrome
from tests.tracking.conftest import Server
from tests.tracking.test_compare_in_browser import open_view, wait_for

IMAGES = Path(__file__).parent / "images"


def main(ledger: str) -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "no chromium"
    assert driver, "no chromedriver"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = Path(shutil.copytree(ledger, folder / Path(ledger).name))
        server = Server(folder)
        browser = chrome(chromium, driver, folder / "profile", width=1500, height=1000)
        try:
            done = publish(copy, server.address, "", report=False)
            assert done.error is None, done.error
            links = json.loads((copy / "_mlflow.json").read_text())
            arms = next(iter(links["arm_runs"].values()))
            open_view(browser, server, links["experiment_id"], views.ARMS)
            browser.get(f"{browser.current_url}&compareRunsMode=CHART")
            wait_for(browser, "body", "What the arms cost")
            _close_assistant(browser)
            _shot(browser, "mlflow-arms")
            for run in [*arms.values()][:: len(arms) - 1]:  # the first and the last of a setting
                browser.find_element(By.CSS_SELECTOR, f".ag-row[row-id='{run}'] .ag-selection-checkbox input").click()
            wait_for(browser, "[data-testid='runs-compare-button']", "Compare").click()
            wait_for(browser, "body", "Comparing 2 Runs")
            browser.set_window_size(1500, 1900)
            _shot(browser, "mlflow-compare")
        finally:
            browser.quit()
            server.kill()


def _close_assistant(browser: object) -> None:
    """MLflow's own chat panel, which is open on a first visit."""
    for button in browser.find_elements(By.CSS_SELECTOR, "[aria-label='Close']"):  # type: ignore[attr-defined]
        button.click()


def _shot(browser: object, name: str) -> None:
    """The window as it is now, with a palette, which keeps the file small."""
    time.sleep(5)
    path = IMAGES / f"{name}.png"
    browser.save_screenshot(str(path))  # type: ignore[attr-defined]
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
