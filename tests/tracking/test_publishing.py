"""A ledger in MLflow, in a real SQLite store: every run equals its row, and doing it again changes nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from raybench.analysis import analyse
from raybench.errors import UserError
from raybench.ledger.reading import read_ledger
from raybench.tracking import publishing
from tests.analysis.ledgers import leg, paired, write
from tests.show.ledgers import rich_ledger

pytestmark = pytest.mark.slow


def all_runs(client: MlflowClient, space: str = "cnns") -> list[Run]:
    experiment = client.get_experiment_by_name(space)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def of_kind(runs: list[Run], kind: str) -> list[Run]:
    return [run for run in runs if run.data.tags["raybench.kind"] == kind]


def check_runs_equal_rows(client: MlflowClient, rows: list[dict[str, Any]], space: str = "cnns") -> None:
    """Every leg has one run, with the row's numbers, below its arm's, below the sweep's."""
    runs = all_runs(client, space)
    (sweep,) = of_kind(runs, "sweep")
    arms = {run.info.run_id: run for run in of_kind(runs, "arm")}
    legs = {run.data.tags["raybench.leg_id"]: run for run in of_kind(runs, "leg")}
    assert len(legs) == len(of_kind(runs, "leg")) == len(rows)
    assert {run.data.tags["mlflow.parentRunId"] for run in arms.values()} == {sweep.info.run_id}
    for row in rows:
        run = legs[row["leg_id"]]
        parent = arms[run.data.tags["mlflow.parentRunId"]]
        for name in ("arm", "setting", "model", "engine"):
            assert run.data.params[name] == parent.data.params[name] == row[name]
        assert run.info.start_time == int(row["started_at"].timestamp() * 1000)
        assert run.data.params["repeat"] == str(row["repeat"])
        assert run.inputs.dataset_inputs[0].dataset.name == row["dataset"]
        if row["status"] == "failed":
            assert run.info.status == "FAILED"
            assert run.data.tags["raybench.failure"] == row["failure_message"]
            assert not run.data.metrics
            continue
        measured = row["step_seconds"][row["warmup_steps"] :]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["step_ms_mean"] == pytest.approx(1000 * sum(measured) / len(measured), rel=1e-5)
        assert run.data.metrics["peak_host_mib"] == pytest.approx(row["peak_host_bytes"] / 2**20, rel=1e-5)
        assert run.data.metrics["final_loss"] == row["final_loss"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MlflowClient, str, str]:
    """The rich ledger in a store that was empty: (ledger, client, address, artifact root)."""
    folder = tmp_path_factory.mktemp("published")
    ledger = rich_ledger(folder / "friday")
    (ledger / "_space.yaml").write_text("question: {margin: 0.03}\n")
    uri, artifacts = f"sqlite:///{folder}/m.db", str(folder / "artifacts")
    done = publishing.publish(ledger, uri, artifacts)
    assert (done.written, done.there, done.error) == (96, 0, None)
    return ledger, MlflowClient(uri), uri, artifacts


def test_every_run_equals_its_row(published: tuple[Path, MlflowClient, str, str]) -> None:
    ledger, client, _, _ = published
    check_runs_equal_rows(client, read_ledger(ledger).to_pylist())


def test_arms_carry_what_the_analysis_found(published: tuple[Path, MlflowClient, str, str]) -> None:
    ledger, client, _, _ = published
    arms = {
        (run.data.tags["raybench.setting_id"], run.data.params["arm"]): run for run in of_kind(all_runs(client), "arm")
    }
    for found in analyse([ledger]).comparisons:
        run = arms[found.where.setting_id, found.arm]
        assert run.data.tags["raybench.verdict"] == found.verdict
        assert run.data.metrics.get("speedup") == found.speedup.value
        assert run.data.metrics.get("speedup_low") == found.judgement.interval.low
    assert {run.data.metrics["speedup"] for key, run in arms.items() if key[1] == "ddp"} == {1.0}
    assert arms["c", "zero3"].info.status == "FAILED"  # none of its legs ran; its parameters are there all the same
    assert len({tuple(sorted(run.data.params)) for run in arms.values()}) == 1
    legs = of_kind(all_runs(client), "leg")
    for run in arms.values():  # an arm lasts from its first leg to its last, whenever it was written
        own = [leg.info for leg in legs if leg.data.tags["mlflow.parentRunId"] == run.info.run_id]
        assert run.info.start_time == min(info.start_time for info in own)
        assert run.info.end_time == max(info.end_time for info in own)


def test_the_sweep_carries_answer_report_and_ledger(
    published: tuple[Path, MlflowClient, str, str], tmp_path: Path
) -> None:
    ledger, client, _, _ = published
    (sweep,) = of_kind(all_runs(client), "sweep")
    note = sweep.data.tags["mlflow.note.content"]
    assert note.startswith("**compiled helps: it is 1.25 times as fast as ddp")
    assert "<script>" not in note
    assert sweep.data.metrics["speedup/zero3/net a b8"] == analyse([ledger]).comparisons[2].speedup.value
    got = Path(client.download_artifacts(sweep.info.run_id, "", str(tmp_path)))
    assert {path.name for path in got.iterdir()} == {"report", "ledger", "analysis.json", "_space.yaml"}
    assert (got / "report/report.html").read_bytes() == (ledger / "_report/report.html").read_bytes()
    assert (got / "report/figures/forest.svg").is_file()
    there = pq.read_table(got / "ledger/ledger.parquet").sort_by("leg_id")
    assert there.to_pylist() == read_ledger(ledger).sort_by("leg_id").to_pylist()


def test_doing_it_again_changes_nothing(published: tuple[Path, MlflowClient, str, str]) -> None:
    ledger, client, uri, artifacts = published

    def state() -> list[Any]:
        runs = sorted(all_runs(client), key=lambda run: run.info.run_id)
        arms = [run.info.run_id for run in of_kind(runs, "arm")]
        history = [len(client.get_metric_history(run_id, "speedup")) for run_id in arms]
        return [history, *((dict(run.data), run.info.status, run.info.end_time) for run in runs)]

    before = state()
    links = (ledger / "_mlflow.json").read_bytes()
    page = (ledger / "_report/report.html").read_bytes()
    done = publishing.publish(ledger, uri, artifacts)
    assert (done.written, done.there, done.error) == (0, 96, None)
    assert state() == before
    assert (ledger / "_mlflow.json").read_bytes() == links
    assert (ledger / "_report/report.html").read_bytes() == page


def test_links_lead_to_the_runs(published: tuple[Path, MlflowClient, str, str]) -> None:
    ledger, client, _, _ = published
    links = json.loads((ledger / "_mlflow.json").read_text())
    assert links["tracking_uri"] == "local"  # no path of this machine
    run = client.get_run(links["arm_runs"]["a"]["zero3"])
    assert (run.data.params["setting"], run.data.params["arm"]) == ("net a b8", "zero3")
    assert client.get_run(links["sweep_run"]).data.tags["raybench.kind"] == "sweep"


def test_cut_and_doubled_runs_are_mended(tmp_path: Path) -> None:
    ledger, uri = write(tmp_path / "led/legs.parquet", paired([1.1, 1.2])).parent, f"sqlite:///{tmp_path}/m.db"
    publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    client = MlflowClient(uri)
    runs = all_runs(client)
    for kind in ("sweep", "arm", "leg"):  # what a lost answer leaves behind: the same run once more, without children
        run = of_kind(runs, kind)[0]
        client.create_run(run.info.experiment_id, tags=dict(run.data.tags), start_time=1)
    assert len(all_runs(client)) == len(runs) + 3
    done = publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    assert (done.written, done.error) == (0, None)
    check_runs_equal_rows(client, read_ledger(ledger).to_pylist())
    assert {run.info.run_id for run in all_runs(client)} == {run.info.run_id for run in runs}


def test_a_resumed_sweep_gets_its_new_legs_and_revised_speedups(tmp_path: Path) -> None:
    ledger, uri = tmp_path / "led", f"sqlite:///{tmp_path}/m.db"
    rows = paired([1.5, 1.5, 1.1, 1.1])
    for number, row in enumerate(rows):  # a ledger is in no order of time
        row["started_at"] -= timedelta(minutes=number)
    write(ledger / "a.parquet", rows[:4])
    publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    begun = {run.info.start_time for run in of_kind(all_runs(MlflowClient(uri)), "arm")}
    assert begun == {int(row["started_at"].timestamp() * 1000) for row in rows[2:4]}
    write(ledger / "b.parquet", rows[4:])
    done = publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    assert (done.written, done.there) == (4, 4)
    (run,) = [run for run in of_kind(all_runs(MlflowClient(uri)), "arm") if run.data.params["arm"] == "zero1"]
    assert run.data.metrics["speedup"] == analyse([ledger]).comparisons[0].speedup.value
    assert run.data.metrics["speedup"] == pytest.approx((1.5 * 1.1) ** 0.5)


def test_a_leg_that_ran_again_has_the_run_of_its_row(tmp_path: Path) -> None:
    """Its file was damaged after MLflow had the leg: the ledger has the second time, whichever way clocks went."""
    ledger, uri = tmp_path / "led", f"sqlite:///{tmp_path}/m.db"
    rows = paired([1.1, 1.2])
    write(ledger / "a.parquet", rows)
    publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    for row, minutes in ((rows[0], 90), (rows[1], -90)):
        row["started_at"] += timedelta(minutes=minutes)
        row["final_loss"] += 1
    write(ledger / "a.parquet", rows)
    done = publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    assert (done.written, done.there, done.error) == (2, 2, None)
    check_runs_equal_rows(MlflowClient(uri), read_ledger(ledger).to_pylist())


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    ledger = write(tmp_path / "led/legs.parquet", [leg("ddp"), leg("ddp", 1, sweep="monday")]).parent
    with pytest.raises(UserError, match="rows of 2 sweeps in one folder"):
        publishing.publish(ledger, f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a"))


@pytest.mark.parametrize("uri", ["sqlite:////proc/nope/m.db", "foo://x", "postgresql://me:secret@127.0.0.1:1/x"])
def test_an_impossible_store_is_told_and_the_report_is_written(uri: str, tmp_path: Path) -> None:
    ledger = write(tmp_path / "led/legs.parquet", [leg("ddp")]).parent
    done = publishing.publish(ledger, uri, str(tmp_path / "a"))
    assert done.error
    assert "secret" not in done.error
    assert "\n" not in done.error
    assert done.report is not None
    assert done.report.is_file()
    assert not (ledger / "_mlflow.json").exists()


def test_an_arm_has_one_colour_in_every_setting(published: tuple[Path, MlflowClient, str, str]) -> None:
    _, client, _, _ = published
    colours: dict[str, set[str]] = {}
    for run in [*of_kind(all_runs(client), "arm"), *of_kind(all_runs(client), "leg")]:
        colours.setdefault(run.data.tags["raybench.arm"], set()).add(run.data.tags["mlflow.runColor"])
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours) > 2


def test_an_experiment_of_the_users_own_is_taken_and_keeps_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/m.db"
    client = MlflowClient(uri)
    client.create_experiment("of the lab", str(tmp_path / "own"), tags={"mlflow.note.content": "Ours."})
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the lab")
    for space in ("cnns", "vits"):  # two sweeps of one name
        rows = [{**row, "space": space} for row in paired([1.1, 1.2])]
        ledger = write(tmp_path / space / "legs.parquet", rows).parent
        assert publishing.publish(ledger, uri, str(tmp_path / "a"), report=False).written == 4
        assert publishing.publish(ledger, uri, str(tmp_path / "a"), report=False).there == 4
    experiment = client.get_experiment_by_name("of the lab")
    assert experiment.tags["mlflow.note.content"] == "Ours."
    assert "mlflow.sharedViewState.raybench-arms" in experiment.tags
    sweeps = of_kind(all_runs(client, "of the lab"), "sweep")
    assert sorted(run.data.params["space"] for run in sweeps) == ["cnns", "vits"]
    assert client.get_experiment_by_name("cnns") is None


def test_a_deleted_experiment_is_told_in_a_line(tmp_path: Path) -> None:
    ledger, uri = write(tmp_path / "led/legs.parquet", paired([1.1, 1.2])).parent, f"sqlite:///{tmp_path}/m.db"
    publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cnns")
    client.delete_experiment(experiment.experiment_id)
    done = publishing.publish(ledger, uri, str(tmp_path / "a"), report=False)
    assert done.error is not None
    assert "experiment 'cnns' was deleted in MLflow" in done.error
    assert f"--experiment-id {experiment.experiment_id}" in done.error
    client.restore_experiment(experiment.experiment_id)
    assert publishing.publish(ledger, uri, str(tmp_path / "a"), report=False).error is None
