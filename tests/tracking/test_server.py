"""A real MLflow server with passwords that is slow, gone, back and empty: measuring goes on, and sync catches up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.recorder import Recorder
from raybench.ledger.reading import read_ledger
from tests.conftest import command_environment
from tests.ledger.test_dataset import MEASUREMENT
from tests.tracking.conftest import Server
from tests.tracking.test_publishing import check_runs_equal_rows

pytestmark = pytest.mark.slow
PASSWORD = "p@ss/word of the lab"
QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a user and a password for everything."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = lab\n"
        f"admin_password = {PASSWORD}\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = Server(
        folder, "--app-name", "basic-auth",
        MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"), MLFLOW_FLASK_SERVER_SECRET_KEY="of this test",
    )  # fmt: skip
    yield server
    server.kill()


@pytest.fixture
def plan() -> Plan:
    return build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "3"}), sweep="s")


def sync(ledger: Path, server: Server, password: str = PASSWORD, **more: str) -> subprocess.CompletedProcess[str]:
    variables = {"MLFLOW_TRACKING_USERNAME": "lab", "MLFLOW_TRACKING_PASSWORD": password, **more}
    environment = command_environment(**{"MLFLOW_TRACKING_URI": server.address, **variables})
    return subprocess.run(
        [sys.executable, "-m", "raybench.sync", str(ledger)],
        cwd=ledger.parent, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def record(recorder: Recorder, plan: Plan, number: int) -> list[float]:
    """A trial's legs, as its workers would hand them over. Returns how many seconds each took to be acknowledged."""
    trial, waits = plan.trials[number], []
    recorder.next_block(number)  # one setting: a trial a block
    recorder.block_began(number)
    for leg in trial.legs:
        recorder.begin("group", leg.leg_id)
        outcome = replace(MEASUREMENT, final_loss=float(leg.position), started_at=1e9)
        begun = time.monotonic()
        recorder.record("group", leg.leg_id, outcome)
        waits.append(time.monotonic() - begun)
    recorder.block_ended(number)
    return waits


def test_a_server_that_hangs_and_dies_costs_no_leg_and_sync_fills_it_later(
    guarded: Server, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "led"
    variables = {"MLFLOW_TRACKING_USERNAME": "lab", "MLFLOW_TRACKING_PASSWORD": PASSWORD, **QUICK}
    for name in variables:
        monkeypatch.setenv(name, "")  # what the recorder sets is undone after the test
    recorder = Recorder(plan.model_dump_json(), str(ledger), "", guarded.address, "", variables)
    record(recorder, plan, 0)
    client = MlflowClient(guarded.address)
    deadline = time.monotonic() + 120
    while not _legs(client):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    guarded.send(signal.SIGSTOP)  # it takes connections and answers none
    waits = record(recorder, plan, 1)
    guarded.kill()
    waits += record(recorder, plan, 2)
    errors = recorder.finish()
    assert max(waits) < 10  # less than one request that is given up
    assert errors
    assert PASSWORD not in " ".join(errors)
    rows = read_ledger(ledger).to_pylist()
    assert len(rows) == len(plan.legs()) == 18

    gone = sync(ledger, guarded, **QUICK)
    assert gone.returncode == 2
    assert len(gone.stderr.strip().splitlines()) == 1
    guarded.start()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # this process's own questions may take their time
    back = sync(ledger, guarded)
    assert back.returncode == 0, back.stderr
    check_runs_equal_rows(client, rows, "quickstart")


def _legs(client: MlflowClient) -> int:
    experiment = client.get_experiment_by_name("quickstart")
    if experiment is None:
        return 0
    return len(client.search_runs([experiment.experiment_id], "tags.`raybench.kind` = 'leg'"))


def test_a_wrong_password_is_told_in_a_line_without_it(guarded: Server, plan: Plan, tmp_path: Path) -> None:
    ledger = tmp_path / "led"
    recorder = Recorder(plan.model_dump_json(), str(ledger), "", f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a"))
    record(recorder, plan, 0)
    assert recorder.finish() == []
    address = guarded.address.replace("://", "://lab:not%20it@")
    done = sync(ledger, guarded, MLFLOW_TRACKING_URI=address, password="not it")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert guarded.address in done.stderr
    assert "not%20it" not in done.stderr + done.stdout
    assert "not it" not in done.stderr + done.stdout
