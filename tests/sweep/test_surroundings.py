"""One sweep in bad surroundings: a compiler that fails, a stale build lock, secrets in the environment, open doors."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import command_environment
from tests.sweep.test_interrupt import MARK, processes_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws/Geheim+0001",
    "HF_TOKEN": "hf_geheim0002",
    "MLFLOW_TRACKING_PASSWORD": "ml geheim  0003",
    "WANDB_API_KEY": "wandbgeheim0004",
    "PIP_EXTRA_INDEX_URL": "https://bot:pipgeheim0005@packages.invalid/simple",
}
TOLD = ",".join(SECRETS)
SPACE = f"""
setting: {{model: "faulty:net", dataset: digits, batch_size: 32, workers: 2}}
differs: [model_options, optimizer]
arms:
  ddp: {{engine: torch}}
  zero1: {{engine: deepspeed, zero: 1}}
  cpu_adam: {{engine: deepspeed, zero: 1, offload: optimizer, setting: KERNEL}}
  cpu_adam_2: {{engine: deepspeed, zero: 2, offload: optimizer, setting: KERNEL}}
  tells: {{engine: torch, setting: {{model_options: {{fault: tell, file: "{TOLD}"}}}}}}
  tells_alone: {{engine: torch, setting: {{model_options: {{fault: tell, only_rank: 1, file: "{TOLD}"}}}}}}
protocol: {{warmup_steps: 2, steps: 5, rounds: 1}}
repeats: 1
leg_timeout_seconds: 120
""".replace("KERNEL", "{optimizer: {name: adamw, kernel: deepspeed}}")
# A compiler that cannot do DeepSpeed's CPUAdam, and says so as compilers do; each time is noted.
COMPILER = r"""#!/bin/sh
case "$*" in
*cpu_adam*)
  case "$*" in */cpu_adam.cpp\ *) echo once >> {tried};; esac
  echo "cpu_adam.cpp:7:10: fatal error: planted.h: No such file or directory" >&2
  exit 1;;
esac
exec {compiler} "$@"
"""


@dataclass
class Surroundings:
    """What one sweep left and what was seen of it while it ran."""

    folder: Path
    ray: Path  # Ray's folder of sessions
    output: str = ""
    returncode: int = -1
    doors: set[tuple[str, str]] = field(default_factory=set)  # process, address that it listens at
    stranger: subprocess.CompletedProcess[str] | None = None  # a client without the token


def listening(mark: str) -> set[tuple[str, str]]:
    """The processes of a sweep that listen, and at which addresses."""
    found = set()
    for number, line in processes_of(mark).items():
        try:
            for one in psutil.Process(number).net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((line[:200], one.laddr.ip))
        except psutil.Error:
            continue
    return found


KNOCK = """
from ray._raylet import GcsClient
GcsClient(address=ADDRESS).internal_kv_keys(b"", timeout=10)
"""


def knock(mark: str, home: Path) -> subprocess.CompletedProcess[str] | None:
    """Ask the sweep's Ray something without a token, once it is there."""
    address = re.search(r"--gcs-address=(\S+:\d+)", " ".join(processes_of(mark).values()))
    if address is None:
        return None
    return subprocess.run(
        [sys.executable, "-c", KNOCK.replace("ADDRESS", repr(address[1]))],
        env=command_environment(HOME=str(home), RAY_AUTH_MODE="disabled"), capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("surroundings")
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as ray:  # short: Ray's sockets lie below it
        found = Surroundings(folder, Path(ray))
        run(found)
        yield found


def run(found: Surroundings) -> None:
    from raybench.training.engines.deepspeed_ops import extensions_cache

    folder, mark = found.folder, uuid.uuid4().hex
    for name in ("work", "home", "stranger", "bin"):
        (folder / name).mkdir()
    (folder / "work/faults.yaml").write_text(SPACE)
    shutil.copy(Path(__file__).parent / "faulty.py", folder / "work")
    compiler = folder / "bin/c++"
    compiler.write_text(COMPILER.format(tried=folder / "tried", compiler=shutil.which("c++")))
    compiler.chmod(0o700)
    built = extensions_cache() / "deepspeed_shm_comm"
    (folder / "extensions/cpu_adam").mkdir(parents=True)
    if built.exists():  # what is built already is not built again
        shutil.copytree(built, folder / "extensions" / built.name)
    for lock in [path / "lock" for path in (folder / "extensions").iterdir()]:
        lock.touch()  # as a build that was killed leaves it
    environment = command_environment(**SECRETS, **{MARK: mark}, RAY_ADDRESS="local", RAY_TMPDIR=str(found.ray))
    environment |= {"HOME": str(folder / "home"), "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    environment |= {"PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}"}
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "raybench.sweep", "space=faults.yaml", "sweep=s"],
            cwd=folder / "work", env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while process.poll() is None:
            found.doors |= listening(mark)
            found.stranger = found.stranger or knock(mark, folder / "stranger")
            time.sleep(2)
    finally:
        process.terminate()
        process.wait()
    found.output, found.returncode = (folder / "output.txt").read_text(), process.returncode


def rows(sweep: Surroundings) -> dict[str, dict]:
    """The ledger's rows by arm."""
    return {row["arm"]: row for row in pq.read_table(sweep.folder / "work/mlruns/ledger/faults/s").to_pylist()}


def test_an_operator_that_does_not_compile_fails_its_legs_alone_and_is_tried_once(sweep: Surroundings) -> None:
    assert sweep.returncode == 0, sweep.output
    assert "Traceback" not in sweep.output
    found = rows(sweep)
    assert {arm: found[arm]["status"] for arm in ("ddp", "zero1")} == {"ddp": "ok", "zero1": "ok"}, found["zero1"]
    first, second = (found[arm]["failure_message"] for arm in ("cpu_adam", "cpu_adam_2"))
    assert [found[arm]["failure_kind"] for arm in ("cpu_adam", "cpu_adam_2")] == ["unsupported", "unsupported"], first
    assert "DeepSpeed's operator cpu_adam cannot be built on" in first
    assert "fatal error: planted.h: No such file or directory" in first
    assert second == first
    told = re.search(r"all that was said: (\S+)\)", first)
    assert told is not None
    assert "planted.h" in Path(told[1]).read_text()
    assert (sweep.folder / "tried").read_text() == "once\n"


def test_build_locks_of_the_dead_stop_nobody(sweep: Surroundings) -> None:
    assert rows(sweep)["zero1"]["status"] == "ok"  # it would have waited without end
    assert list((sweep.folder / "extensions").glob("*/lock")) == []


def test_no_secret_of_the_environment_is_written_anywhere(sweep: Surroundings) -> None:
    found = rows(sweep)
    assert [found[arm]["failure_message"].count("***") for arm in ("tells", "tells_alone")] == [4, 4], found["tells"]
    hidden = [value.rpartition(":")[2].partition("@")[0].encode() for value in SECRETS.values()]
    hidden += [b" ".join(value.split()) for value in hidden if b"  " in value]
    files = [path for root in (sweep.folder, sweep.ray) for path in root.rglob("*") if path.is_file()]
    assert {"mlflow.db", "_space.yaml", "output.txt", "report.html"} <= {path.name for path in files}
    assert any(path.name.startswith("worker-") and b"told: ***" in path.read_bytes() for path in files)
    assert {str(path): secret for path in files for secret in hidden if secret in path.read_bytes()} == {}


# torch's store, at which the processes of a trial meet: it has no choice of an address.
OPEN = re.compile(r"RayTrainWorker|ray::execute\.")


def test_all_doors_are_on_loopback(sweep: Surroundings) -> None:
    assert len({line for line, _ in sweep.doors}) > 3, sweep.doors
    beyond = {(line, ip) for line, ip in sweep.doors if not ip_address(ip.removeprefix("::ffff:")).is_loopback}
    assert {one for one in beyond if not OPEN.search(one[0])} == set()


def test_who_has_no_token_is_refused(sweep: Surroundings) -> None:
    assert sweep.stranger is not None
    assert sweep.stranger.returncode != 0
    assert "AuthenticationError" in sweep.stranger.stderr
    assert "token is missing or incorrect" in sweep.stranger.stderr
    token = sweep.folder / "home/.ray/auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
