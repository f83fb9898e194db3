"""Two sweeps of one name at once: the second is refused, and a dead holder's lock is taken over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raybench.errors import UserError
from raybench.ledger.lock import sweep_lock
from tests.conftest import command_environment

HOLD = "import sys, time; from pathlib import Path; from raybench.ledger.lock import sweep_lock\n" + (
    "with sweep_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
)


def test_the_second_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "space" / "friday"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=command_environment()
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"sweep=friday is being run by process {holder.pid} on"),
            sweep_lock(folder),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sweep_lock(folder):
        pass
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []


RELEASE = HOLD.replace("import sweep_lock", "import release_on_exit, sweep_lock").replace(
    "time.sleep(60)", "release_on_exit(Path(sys.argv[1])); __import__('os')._exit(1)"
)


def test_who_ends_without_unwinding_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "space" / "friday"
    done = subprocess.run(
        [sys.executable, "-c", RELEASE, str(folder)], stdout=subprocess.PIPE, text=True, env=command_environment(),
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "held\n")
    assert list(folder.parent.iterdir()) == []


CONNECT = (
    "import sys; from raybench.cli import _guarded; from raybench.cluster.connection import connect, disconnect, ray\n"
    "def main(argv):\n    connect(); print(ray.get_runtime_context().gcs_address, flush=True)\n"
    "    sys.stdin.readline(); disconnect(); return 0\n"
    "sys.exit(_guarded(main, []))"
)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_does_not_join_the_ray_that_ends_with_another(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CONNECT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env=command_environment(RAY_ADDRESS="local"),
    ) as first:  # fmt: skip
        assert first.stdout is not None
        address = first.stdout.readline().strip()
        second = subprocess.run(
            [sys.executable, "-c", CONNECT], input="\n", capture_output=True, text=True, cwd=tmp_path, check=False,
            env=command_environment(RAY_ADDRESS=address),
        )  # fmt: skip
        assert second.returncode == 2, second.stdout + second.stderr
        assert f"another sweep runs on this machine (process {first.pid})" in second.stderr
        first.communicate("\n")
    assert first.returncode == 0
