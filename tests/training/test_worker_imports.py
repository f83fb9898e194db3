"""A worker's imports and garbage: none is collected meanwhile; afterwards that of legs is, and modules are not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from raybench.cluster import ray_private
from raybench.driver.trial import worker_variables
from tests.conftest import command_environment

AFTER = """
import gc, sys
from raybench.training import imports
imports.begin()
assert not gc.isenabled()
import raybench.training.worker
imports.freeze()
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
frozen = gc.get_freeze_count()
class Leg: pass
leg = Leg(); leg.itself = leg; del leg
assert gc.collect() > 0
imports.begin(); imports.freeze()  # nothing was imported since
assert gc.isenabled() and gc.get_freeze_count() == frozen
"""


def test_garbage_is_collected_again_after_the_imports() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AFTER], env=command_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
def test_ray_begins_in_a_worker_before_anything_else(ray_address: str) -> None:
    @ray.remote(num_cpus=0, runtime_env={"env_vars": worker_variables(False, 1, "")})
    def collects() -> bool:
        import gc

        return gc.isenabled()

    assert not ray.get(collects.remote(), timeout=120)


def test_a_users_own_hook_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ray_private.SETUP_HOOK, "mine.begin")
    assert worker_variables(False, 1, "")[ray_private.SETUP_HOOK] == "mine.begin"


SHARDED = """
import sys
from raybench.declare.arms import TorchArm
from raybench.training.engines import engine_class
library = "torch.distributed.optim.zero_redundancy_optimizer"
engine_class(TorchArm(engine="torch"))
assert library not in sys.modules
engine_class(TorchArm(engine="torch", zero_redundancy_optimizer=True))
assert library in sys.modules
"""


def test_the_library_of_a_sharded_optimizer_is_imported_with_its_engine_and_not_in_its_leg() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=command_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
