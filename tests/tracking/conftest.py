"""A real MLflow server on loopback that tests may slow down, stop and start again, and a browser to look at it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import command_environment


class Server:
    """`mlflow server` in a process group of its own, with a database and an artifact store of its own."""

    def __init__(self, folder: Path, *options: str, **variables: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.folder, self.options, self.variables = folder, options, variables
        self.start()

    def start(self) -> None:
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", *self.options]
        arguments += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        arguments += ["--artifacts-destination", str(self.folder / "store")]
        environment = command_environment(
            MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **self.variables
        )
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                running = self.process.poll() is None and time.monotonic() < deadline
                assert running, (self.folder / "server.log").read_text()
                time.sleep(0.5)

    def send(self, number: int) -> None:
        """A signal to all of the server's processes."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that anybody may read and write."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    """A headless Chromium, driven by selenium; skips where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (Debian: apt-get install chromium chromium-driver)")
    from tests.browser import chrome

    found = chrome(chromium, driver, tmp_path / "profile")
    yield found
    found.quit()
