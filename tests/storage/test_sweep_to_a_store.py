"""A real sweep on real Ray whose results are in a store: its rows, its report, the resume, and no secret of the URI."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from pyarrow.fs import S3FileSystem

from tests.conftest import Commands
from tests.storage.store import KEY, SECRET, Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ARGUMENTS = [
    "space=quickstart", "sweep=friday", "setting.model=lenet", "protocol.warmup_steps=2", "protocol.steps=6",
    "protocol.rounds=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def bucket(store: Store) -> str:
    store.bucket("sweeps")
    return "sweeps"


def test_a_sweep_its_report_and_its_resume(
    store: Store, bucket: str, tmp_path_factory: pytest.TempPathFactory, ray_address: str
) -> None:
    folder = tmp_path_factory.mktemp("remote")
    commands = Commands(folder, ray_address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del commands.environment[name]  # they are in the URI
    results = store.uri(f"{bucket}/results").replace("s3://", f"s3://{KEY}:{SECRET}@")
    done = commands.run("sweep", *ARGUMENTS, "repeats=1", f"results={results}")
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = store.uri(f"{bucket}/results/quickstart/friday")
    assert f"report: {ledger.partition(chr(63))[0]}/_report/report.html" in done.stdout
    assert not (folder / "mlruns/ledger").exists()

    reader = S3FileSystem(
        access_key=KEY, secret_key=SECRET, region="us-east-1", scheme="http",
        endpoint_override=store.server.removeprefix("http://"),
    )  # fmt: skip
    rows = pq.read_table(f"{bucket}/results/quickstart/friday", filesystem=reader).to_pylist()
    assert len(rows) == 3
    assert {row["status"] for row in rows} == {"ok"}
    names = {name.removeprefix("results/quickstart/friday/") for name in store.names(bucket)}
    assert {"_space.yaml", "_mlflow.json", "_report/report.html", "_report/figures/forest.svg"} <= names
    assert not [name for name in names if name.startswith("_lock/") and name.endswith(".json")]

    # The environment's own credentials from here on, which the cluster has not either.
    commands.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    more = commands.run("sweep", *ARGUMENTS, "repeats=2", f"results={store.uri(f'{bucket}/results')}")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "resumed: 3 of 6 legs are in the ledger; 3 to run" in more.stdout
    found = json.loads(commands.run("analysis", ledger, "--json").stdout)
    assert {comparison["n_trials"] for comparison in found["comparisons"]} == {2}
    assert commands.run("verify", ledger).returncode == 0
    assert commands.run("sync", ledger).returncode == 0

    objects = [store.client("s3").get_object(Bucket=bucket, Key=name)["Body"].read() for name in store.names(bucket)]
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    told = [text.encode() for one in (done, more) for text in (one.stdout, one.stderr)]
    for secret in (SECRET.encode(), KEY.encode()):
        assert not [content[:80] for content in (*objects, *written, *told) if secret in content]
