"""The doctor finds what is really wrong: faults are caused, and each has its status and its remedy."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from raybench.doctor import hardware, link_speeds, services, software
from tests.conftest import ROOT, command_environment


def diagnose(folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **variables: str) -> tuple[int, dict]:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "raybench.doctor", "--json", *arguments], cwd=folder, capture_output=True,
        text=True, env=command_environment(**variables), timeout=200, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["errors"] == sum(one["status"] == "error" for one in report["findings"])
    return done.returncode, {one["name"]: one for one in report["findings"]}


def can_mount() -> bool:
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return shutil.which("unshare") is not None and probe.returncode == 0


def test_many_faults_at_once_are_found_each_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "extensions/cpu_adam").mkdir(parents=True)
    (tmp_path / "extensions/cpu_adam/lock").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "frozen").mkdir()
    script = 'ulimit -n 256; exec "$@"'
    prefix: tuple[str, ...] = ("/bin/sh", "-c", script, "sh")
    if can_mount():  # where permissions stop nobody, as with root, a read-only mount does
        read_only = (
            f"/bin/mount --bind {tmp_path}/frozen {tmp_path}/frozen && /bin/mount -o remount,ro,bind {tmp_path}/frozen"
        )
        small = "/bin/mount -t tmpfs -o size=1m none /dev/shm"
        prefix = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", f"{read_only} && {small} && {script}", "sh")
    else:
        (tmp_path / "frozen").chmod(0o500)
    code, found = diagnose(
        tmp_path, "results=frozen/ledger", prefix=prefix, PATH="/nowhere", HOME=str(tmp_path / "home"),
        MLFLOW_TRACKING_URI="http://user:secret@127.0.0.1:1", RAY_ADDRESS="127.0.0.1:1", RAY_AUTH_MODE="token",
        TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions"),
    )  # fmt: skip
    assert code == 1
    expected = {
        "C++ compiler": ("error", "none on PATH", "apt-get install g++"),
        "open files": ("error", "256", "ulimit -n 65536"),
        "results folder": ("error", "cannot be written", "results=FOLDER"),
        "Ray": ("error", "RAY_ADDRESS=127.0.0.1:1 does not answer", "correct RAY_ADDRESS"),
        "Ray's token": ("error", "there is none at", "ray get-auth-token --generate"),
        "MLflow": ("warning", "http://127.0.0.1:1: no answer", "raybench.sync"),
        "build locks": ("warning", "cpu_adam/lock", "--build-ops"),
        "DeepSpeed operators": ("warning", "not built yet: deepspeed_shm_comm, cpu_adam", "--build-ops"),
    }
    if can_mount():
        expected["shared memory"] = ("warning", "/dev/shm: 0.00 of 0.00 GiB free", "--shm-size")
    for name, (status, words, remedy) in expected.items():
        assert found[name]["status"] == status, found[name]
        assert words in found[name]["found"]
        assert remedy in found[name]["remedy"]
    assert "secret" not in json.dumps(found)
    for name in ("Python", "torch", "torchvision", "deepspeed", "imports", "loopback"):
        assert found[name]["status"] == "ok", found[name]
    assert (tmp_path / "extensions/cpu_adam/lock").exists()  # nothing was changed
    assert list((tmp_path / "frozen").iterdir()) == []


def test_a_machine_without_faults_is_fit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raybench.doctor"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=command_environment(RAY_TMPDIR=str(tmp_path)[:40], COLUMNS="200"), timeout=200,
    )  # fmt: skip
    assert "torch, torchvision, deepspeed can be imported" in done.stdout
    assert done.returncode == (1 if "error" in done.stdout.split() else 0), done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith(("fit for sweeps", "1 error"))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_build_holds_is_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("held", "left"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    with (tmp_path / "held/lock").open():
        answer = software.ask_child(["raybench.training.probes.probe"], 100)
    assert answer["cache"]["locks"] == {f"{tmp_path}/held/lock": True, f"{tmp_path}/left/lock": False}
    (found,) = (one for one in software.operators(answer) if one.name == "build locks")
    assert "left/lock" in found.found
    assert "held" not in found.found
    assert software.operators({"cache": {"locks": {"held/lock": True}}})[0].status == "ok"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"error": "no answer within 60 s"}, "error", "no answer within 60 s"),
        ({"torch": {"error": "ImportError: libfoo.so"}}, "error", "torch does not import: ImportError: libfoo.so"),
        ({"torch": {}, "torchvision": {}, "deepspeed": {}}, "ok", "import"),
    ],
)
def test_libraries_that_do_not_import(answer: dict[str, Any], status: str, words: str) -> None:
    (found,) = software.imports(answer)
    assert found.status == status
    assert words in found.found


def test_a_child_that_dies_or_hangs_is_an_answer() -> None:
    assert "no answer within 0 s" in software.ask_child(["http.server", "0"], 0.3)["error"]
    assert "ended with exit code" in software.ask_child(["raybench.no_such_module"], 30)["error"]


def test_versions_that_do_not_fit_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = software.installed_version, {"torch": "2.12.1", "timm": None}
    monkeypatch.setattr(software, "installed_version", lambda name: other.get(name, real(name)))
    found = {one.name: one for one in software.versions()}
    assert found["torch"].status == "error"
    assert "torch==2.13.0 is asked for" in found["torch"].found
    assert (found["timm"].status, found["timm"].found) == ("error", "not installed")
    assert found["deepspeed"].status == "ok"


def test_a_light_installation_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "installed_version", lambda name: None)
    (found,) = software.versions()
    assert (found.status, "ledgers can be read here" in found.found) == ("error", True)
    assert software.imports({"torch": {"error": "ModuleNotFoundError: No module named 'torch'"}}) == []


class _Unauthorized(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") == "Basic dTpw" else 401)  # u:p
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_tracking_server_that_wants_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Unauthorized)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
        refused = services.mlflow()
        assert (refused.status, "MLFLOW_TRACKING_USERNAME" in refused.found) == ("warning", True)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
        assert services.mlflow().status == "ok"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_database_that_is_none_and_one_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.db").write_text("this is no database, however long it is " * 10)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    found = services.mlflow()
    assert (found.status, "not a database" in found.found) == ("warning", True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/m.db")
    assert "cannot be made" in services.mlflow().found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path))
    assert "plain files" in services.mlflow().found


def test_an_address_that_answers_but_is_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(services, "_JOIN_SECONDS", 3.0)
        found = services.ray_cluster()
    assert found.status == "error"
    assert "cannot be joined" in found.found


def test_a_temporary_folder_too_deep_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 80)
    assert hardware.temporary_folder().status == "error"


def test_the_token_and_who_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    path.write_text("abc")
    path.chmod(0o644)
    assert services.ray_token().status == "warning"
    path.chmod(0o600)
    assert services.ray_token().status == "ok"
    path.write_text("")
    assert services.ray_token().status == "error"


def test_a_cluster_file_without_an_image_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert services.cluster_file() == []
    Path("cluster.yaml").write_text((ROOT / "cluster.yaml").read_text())
    (finding,) = services.cluster_file()
    assert (finding.status, "raybench.cluster aws" in finding.remedy) == ("warning", True)
    Path("cluster.yaml").write_text("ImageId: ami-0123")
    assert services.cluster_file() == []


def test_unlike_gpus_are_a_warning() -> None:
    told = hardware.accelerators({"torch": {"gpus": ["A100", "T4", "A100"], "cuda": "13.0"}})
    assert (told.status, told.found.partition(";")[0]) == ("warning", "2 x A100, 1 x T4")
    assert "CUDA_VISIBLE_DEVICES" in told.remedy
    assert hardware.accelerators({"torch": {"gpus": ["A100"] * 2, "cuda": "13.0"}}).status == "ok"


def test_links_and_adam_in_words() -> None:
    sizes = [{"bytes": 1, "seconds": 1.0, "busbw": rate} for rate in (1e8, 2e9)]
    answer = {
        "world": 2,
        "backend": "gloo",
        "links": {"rates": {"all_reduce": sizes}, "missing": ["links: all_gather: no"]},
    }
    answer["adam"] = {"parameters_per_second": 5e8, "threads": 4}
    found = {one.name + one.status: one.found for one in link_speeds.told(answer)}
    assert found["linksok"] == "2 processes over gloo: all-reduce 2 GB/s (bus bandwidth)"
    assert found["linkswarning"] == "links: all_gather: no"
    assert found["host and acceleratorok"] == "no accelerator"
    assert (
        found["CPU Adamok"]
        == "500 million parameters a second with 4 threads: 2 s a step for each billion that is offloaded"
    )
    one_gpu = {
        "world": 1,
        "backend": "nccl",
        "links": {"rates": {"to_device": sizes, "from_device": sizes}, "missing": []},
    }
    pairs = ["0-1 NVLink", "0-2 through the host", "1-2 through the host"]
    by_name = {
        one.name: one for one in link_speeds.told({**one_gpu, "gpu_links": pairs, "adam": {"missing": "not built yet"}})
    }
    assert by_name["between GPUs"].found == "2 pairs through the host, 1 pair NVLink"
    assert by_name["host and accelerator"].found == "2 GB/s to it, 2 GB/s from it, pinned"
    assert "links" not in by_name
    assert by_name["CPU Adam"].status == "warning"
    assert link_speeds.told({"error": "no answer within 120 s"})[0].status == "warning"


def test_the_disk_of_an_offload_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_speeds, "_FILE_BYTES", 2 * link_speeds._BLOCK_BYTES)
    found = link_speeds.disk(tmp_path)
    assert re.fullmatch(r".*: [\d.e+]+ GB/s written, [\d.e+]+ GB/s read, one thread", found.found)
    assert list(tmp_path.iterdir()) == []
    assert link_speeds.disk(tmp_path / "nowhere").status == "error"
