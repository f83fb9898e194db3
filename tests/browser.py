"""A headless Chromium that is driven by selenium, for tests and for the documents' screenshots."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def chrome(chromium: str, driver: str, profile: Path, width: int = 1500, height: int = 1000) -> Chrome:
    """A browser with a profile of its own; `chromium` and `driver` are the paths of the programs."""
    options = ChromeOptions()
    options.binary_location = chromium
    for option in (*_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(driver))
