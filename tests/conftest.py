"""What tests share: running raybench's commands as a user would, and one Ray cluster for those that need it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # noqa: F401  it looks at what refers to what, which is not seen once a leg has frozen the imports
import pytest

from raybench.training import imports

ROOT = Path(__file__).parent.parent
# Threads of one step that wait for one another make it many times as long where other tests keep the machine busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the commands that tests start, and interrupt, inherit it


def command_environment(**extra: str) -> dict[str, str]:
    """The environment of a command: this source tree, no tracking server or cluster of the developer's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **extra}


class Commands:
    """Runs `python -m raybench.X ...` in a folder, on the session's Ray cluster where there is one."""

    def __init__(self, folder: Path, address: str | None = None) -> None:
        self.folder = folder
        self.environment = command_environment(**({"RAY_ADDRESS": address} if address else {}))

    def run(self, command: str, *arguments: str, timeout: float = 1100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"raybench.{command}", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"raybench.{command}", *arguments],
                cwd=self.folder, env=self.environment, stdout=output, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip


# What strikes a sweep while it runs, or waits for clusters to grow: `make test-faults`.
FAULTS = (
    "tests/chaos/", "tests/cluster/test_scaling.py", "tests/storage/test_outage.py", "tests/sweep/test_fleet.py",
    "tests/sweep/test_full_disk.py", "tests/sweep/test_interrupt.py", "tests/sweep/test_kills.py",
    "tests/sweep/test_lock.py", "tests/sweep/test_node_loss.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the markers in this hook too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist, tests that start Ray run one after another, and so do those that start torchrun.

    These two groups come first, for they are the longest. Runs of faults at random come last, alone: beside others a
    process that they killed took longer to go than they wait (3 minutes would be saved).
    """
    for item in items:
        if item.nodeid.startswith(FAULTS):
            item.add_marker("faults")
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.get_closest_marker("distributed"):
            item.add_marker(pytest.mark.xdist_group("torchrun"))
        elif not item.get_closest_marker("xdist_group"):  # a file's fixtures are made once
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=_turn)


def pytest_runtest_setup() -> None:
    """Spare what tests import from collections: those that legs and statsmodels ask for visit it all (0.4 s each)."""
    imports.freeze()


def _turn(item: pytest.Item) -> int:
    if item.nodeid.startswith("tests/chaos/"):
        return 3
    return 0 if item.get_closest_marker("ray") else 1 if item.get_closest_marker("distributed") else 2


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Commands in an empty folder, for those that start no Ray."""
    return Commands(tmp_path)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a real Ray cluster of this machine: two CPUs, one slot."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as a sweep's own Ray has it: no worker waits for another test
    import ray

    context = ray.init(
        address="local", num_cpus=2, resources={"bench_slot": 1}, include_dashboard=False, log_to_driver=False,
        logging_level="error",
    )  # fmt: skip
    yield str(context.address_info["gcs_address"])
    ray.shutdown()
