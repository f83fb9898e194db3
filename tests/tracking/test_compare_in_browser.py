"""The comparison as a person makes it, in a real browser before a real MLflow server: open, pick, press Compare."""

from __future__ import annotations

import json
import re

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from raybench.tracking import views
from raybench.tracking.publishing import publish
from tests.show.ledgers import rich_ledger
from tests.tracking.conftest import Server

pytestmark = pytest.mark.slow
ROWS = ".ag-pinned-left-cols-container .ag-row, .ag-center-cols-container .ag-row"


@pytest.fixture(scope="module")
def experiment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The rich ledger on the server: its experiment's id."""
    ledger = rich_ledger(tmp_path_factory.mktemp("compared") / "friday")
    assert publish(ledger, server.address, "", report=False).error is None
    found: str = json.loads((ledger / "_mlflow.json").read_text())["experiment_id"]
    return found


def wait_for(browser: Chrome, css: str, text: str = "") -> WebElement:
    """The first element that the selector finds with a text in it, as soon as it is there."""

    def found(browser: Chrome) -> WebElement | None:
        return next((one for one in browser.find_elements(By.CSS_SELECTOR, css) if text in one.text), None)

    element: WebElement = WebDriverWait(browser, 90, ignored_exceptions=[StaleElementReferenceException]).until(found)
    return element


def open_view(browser: Chrome, server: Server, experiment: str, view: str) -> None:
    browser.get(f"{server.address}/{views.link(experiment, view)}")
    wait_for(browser, "[data-testid='saved-views-trigger']", {v: k for k, v in views.NAMES.items()}[view])
    wait_for(browser, ROWS)


def test_picked_arms_of_a_setting_compare_side_by_side(browser: Chrome, server: Server, experiment: str) -> None:
    open_view(browser, server, experiment, views.ARMS)
    for name in ("ddp | net a b8", "zero3 | net a b8"):
        row = wait_for(browser, ROWS, name).get_attribute("row-id")
        browser.find_element(By.CSS_SELECTOR, f".ag-row[row-id='{row}'] .ag-selection-checkbox input").click()
    wait_for(browser, "[data-testid='runs-compare-button']", "Compare").click()
    wait_for(browser, "body", "Comparing 2 Runs")
    wait_for(browser, "table", "gradient_clipping")
    rows = [row.text.split() for row in browser.find_elements(By.TAG_NAME, "tr")]
    params = {words[0]: words[1:] for words in rows if len(words) == 3}
    assert params["arm"] == ["ddp", "zero3"]
    assert params["is_baseline"] == ["true", "false"]
    assert params["global_batch"] == ["8", "8"]
    # MLflow shows metrics in a grid of names beside a grid of values, two a name, both in the alphabet's order.
    text = wait_for(browser, "body", "backward_ms_mean").text
    lines = text.rpartition("\nMetrics\n")[2].partition("\nArtifacts")[0].splitlines()
    names = [line for line in lines if re.fullmatch("[a-z_]+", line)]
    values = [float(line) for line in lines if re.fullmatch("[0-9.e-]+", line)]
    shown = {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)}
    assert shown["final_loss"] == (1, 1)
    ddp, zero3 = shown["backward_ms_mean"]
    assert ddp / zero3 == pytest.approx(0.7, rel=0.15)  # shown with three decimals


def test_charts_of_legs_are_grouped_by_arm(browser: Chrome, server: Server, experiment: str) -> None:
    open_view(browser, server, experiment, views.LEGS)
    wait_for(browser, "[data-testid='column-selection-dropdown']", "Group by: arm")
    for arm in ("ddp", "zero1", "zero3"):
        wait_for(browser, ROWS, f"Group: arm: {arm}, setting: ")
    browser.get(f"{browser.current_url}&compareRunsMode=CHART")
    # Only charts that are in sight are drawn.
    wait_for(browser, "input[placeholder='Search metric charts']").send_keys("step_ms_mean")
    wait_for(browser, "[data-testid='experiment-view-compare-runs-card']", "step_ms_mean")
    shown = wait_for(browser, "[data-testid='experiment-view-compare-runs-card']", "arm: zero1").text
    assert set(re.findall(r"^arm: (\w+), setting: net a b8$", shown, re.MULTILINE)) == {
        "ddp",
        "zero1",
        "zero3",
        "compiled",
    }
