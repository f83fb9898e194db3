"""Leaving Ray while another thread still works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import command_environment

# Another thread's garbage holds references of Ray's; without care Ray ends the process while it shuts down.
LEAVING = """
import gc, threading, time
import ray
from raybench.cluster.connection import disconnect

class Cycle:
    pass

def free():
    while references and not over.is_set():
        cycle = Cycle()
        cycle.itself, cycle.reference = cycle, references.pop()
        time.sleep(0.0005)

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error", address="local")
references, over = [ray.put(1) for _ in range(8000)], threading.Event()
gc.set_threshold(2)
thread = threading.Thread(target=free)
thread.start()
disconnect()
over.set()
thread.join()
assert references  # it was at work all the while
assert gc.isenabled()
print("left")
"""


@pytest.mark.ray
@pytest.mark.slow
def test_another_threads_garbage_does_not_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], env=command_environment(), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
