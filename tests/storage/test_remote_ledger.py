"""A ledger in a store is the ledger of a disk: the same rows, analysis, checks, report; and nothing torn."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from raybench.analysis import analyse
from raybench.analysis.__main__ import main as analysis
from raybench.calibration.durations import estimate
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.doctor.hardware import disks
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.reading import ledger_files, read_ledger
from raybench.report import main as report
from raybench.stores import remotepath
from raybench.stores.storage import AnyPath, copy_folder, to_path
from raybench.tracking.publishing import publish
from raybench.verify import main as verify
from tests.ledger.test_dataset import FAILURE, MEASUREMENT, first_leg
from tests.show.ledgers import rich_ledger
from tests.storage.store import Store

MILLISECONDS = {"ddp": 100.0, "zero1": 104.0, "zero3": 150.0}


def fill(folder: AnyPath) -> None:
    """A whole sweep with made-up times."""
    name, space = load_space("quickstart", {"setting.model": "lenet", "repeats": "2"})
    ledger = Ledger(folder)
    for trial, leg in build_plan(name, space).legs():
        step = MILLISECONDS[leg.arm_name] / 1e3 * (1 + 0.01 * trial.repeat)
        steps = [2 * step, *[step] * 4]
        ledger.add("v", name, trial, leg, replace(MEASUREMENT, step_seconds=steps, data_seconds=[0.0] * 5))
    ledger.write_space(yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False))


def test_rows_come_back_as_they_went(store: Store, bucket: str) -> None:
    ledger = Ledger(to_path(store.uri(f"{bucket}/quickstart/friday")))
    assert ledger.rows() == []
    assert ledger.leg_ids() == set()
    written = [ledger.add("s", "quickstart", *first_leg(n), FAILURE if n else MEASUREMENT) for n in range(2)]
    by_leg = {row["leg_id"]: row for row in ledger.rows()}
    assert [by_leg[row["leg_id"]] for row in written] == written
    assert store.names(bucket) == sorted(f"quickstart/friday/leg-{row['leg_id']}.parquet" for row in written)


def test_many_single_files_become_one(store: Store, bucket: str) -> None:
    ledger = Ledger(to_path(store.uri(f"{bucket}/friday")))
    for number in range(12):
        ledger.add("s", "quickstart", *first_leg(number), MEASUREMENT if number % 3 else FAILURE)
    before = sorted(ledger.rows(), key=lambda row: row["leg_id"])
    assert not ledger.compact(min_files=13)
    assert ledger.compact(min_files=12)
    (name,) = [name for name in store.names(bucket) if not name.endswith("/")]
    assert re.fullmatch(rf"friday/legs-{before[0]['leg_id']}-[0-9a-f]{{8}}-12\.parquet", name)
    assert sorted(ledger.rows(), key=lambda row: row["leg_id"]) == before


def test_damaged_and_foreign_files_are_set_aside(store: Store, bucket: str) -> None:
    folder = to_path(store.uri(f"{bucket}/friday"))
    ledger = Ledger(folder)
    row = ledger.add("s", "quickstart", *first_leg(), MEASUREMENT)
    (file,) = ledger_files(folder)
    content = bytearray(file.read_bytes())
    content[content.index(row["leg_id"].encode())] ^= 0xFF
    (folder / "leg-torn.parquet").write_bytes(bytes(content))
    (folder / "foreign.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(UserError, match=r"s3://.*foreign\.parquet.*not a readable Parquet file"):
        ledger.rows()
    told = ledger.set_aside()
    assert len(told) == 2
    assert "/_aside/foreign.parquet.damaged?" in told[0]
    assert ledger.rows() == [row]
    kept = [name.rpartition("/")[2] for name in store.names(bucket) if "/_aside/" in name]
    assert [name for name in kept if name] == ["foreign.parquet.damaged", "leg-torn.parquet.damaged"]


def test_an_object_too_large_for_memory(store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = to_path(store.uri(bucket))
    row = Ledger(folder).add("s", "quickstart", *first_leg(), MEASUREMENT)
    monkeypatch.setattr(remotepath, "_MOST_IN_MEMORY", 100)
    assert Ledger(folder).rows() == [row]


def test_the_analysis_is_that_of_the_same_files_on_a_disk(
    store: Store, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, uri = rich_ledger(tmp_path / "friday"), store.uri(f"{bucket}/cnns/friday")
    remote = to_path(uri)
    (remote / "legs.parquet").write_bytes((local / "legs.parquet").read_bytes())
    (remote / "_space.yaml").write_text("question: {margin: 0.02, alpha: 0.1}\n")
    (local / "_space.yaml").write_text("question: {margin: 0.02, alpha: 0.1}\n")
    found = []
    for place in (str(local), uri):
        assert analysis([place, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1].pop("ledgers") == [uri]
    assert found[0].pop("ledgers") == [str(local)]
    assert found[0] == found[1]
    assert found[1]["margin"] == 0.02


@pytest.mark.slow
def test_mlflow_the_report_and_verify(
    store: Store, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = store.uri(f"{bucket}/quickstart/v")
    folder = to_path(uri)
    fill(folder)
    published = publish(folder, f"sqlite:///{tmp_path}/m.db", str(tmp_path / "artifacts"))
    assert published.error is None
    assert published.written == len(read_ledger(folder)) == 12
    assert str(published.report) == store.uri(f"{bucket}/quickstart/v/_report/report.html")
    assert json.loads((folder / "_mlflow.json").read_text())["tracking_uri"] == "local"
    copy_folder(folder / "_report", tmp_path / "copied")
    assert report([uri, f"out={tmp_path}/fetched"]) == 0
    names = sorted(str(path.relative_to(tmp_path / "fetched")) for path in (tmp_path / "fetched").rglob("*.*"))
    assert {"report.html", "summary.md", "report.json", "figures/forest.svg"} <= set(names)
    for name in names:
        assert (tmp_path / "fetched" / name).read_bytes() == (tmp_path / "copied" / name).read_bytes(), name
    assert (
        f"python -m raybench.analysis &#39;{uri}&#39;".replace("&scheme", "&amp;scheme")
        in (tmp_path / "copied" / "report.html").read_text()
    )
    artifacts = {path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert {"report.html", "ledger.parquet", "_space.yaml", "analysis.json"} <= artifacts

    assert verify([uri]) == 0, capsys.readouterr().out
    (folder / "_report" / "summary.md").write_text("nothing of this is true")
    (folder / "leg-odd.parquet").write_bytes(b"odd")
    assert verify([uri, "--set-aside"]) == 1
    out = capsys.readouterr().out
    assert "summary.md" in out
    assert "is not as it was written" in out
    assert "set aside as s3://" in out


def test_the_space_of_a_ledger_in_a_store_runs_again(store: Store, bucket: str) -> None:
    fill(to_path(store.uri(f"{bucket}/quickstart/v")))
    _, space = load_space(store.uri(f"{bucket}/quickstart/v/_space.yaml"))
    assert space.repeats == 2
    with pytest.raises(UserError, match="no such space file"):
        load_space(store.uri(f"{bucket}/none.yaml"))


def test_a_plan_knows_the_time_of_legs_in_a_store(store: Store, bucket: str, tmp_path: Path) -> None:
    local, remote = tmp_path / "results", to_path(store.uri(f"{bucket}/results"))
    for results in (local, remote):
        fill(results / "quickstart" / "v")
    plan = build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "5"}))
    found = [estimate(plan, results, elsewhere=True) for results in (local, remote)]
    assert found[0] == found[1]
    assert found[0].num_known == found[0].num_legs


def test_the_doctor_looks_at_a_store(store: Store, bucket: str) -> None:
    found = {finding.name: finding for finding in disks(to_path(store.uri(f"{bucket}/results")))}
    assert found["results folder"].status == "ok"
    assert "disk of the results" not in found
    missing, *_ = disks(to_path(store.uri("nowhere/results")))
    assert missing.status == "error"
    assert "there is no such bucket" in missing.found


def test_where_there_is_no_ledger(store: Store, bucket: str) -> None:
    with pytest.raises(UserError, match=r"s3://.*/nothing.*no such ledger"):
        analyse([to_path(store.uri(f"{bucket}/nothing"))])
    (to_path(store.uri(bucket)) / "some" / "text.txt").write_text("x")
    with pytest.raises(UserError, match=r"no \*\.parquet file"):
        analyse([to_path(store.uri(f"{bucket}/some"))])
