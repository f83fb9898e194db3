"""One real sweep on real Ray, DDP and ZeRO-1: its ledger, its MLflow runs and its JSON agree with each other."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy import stats

from tests.conftest import Commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ARGUMENTS = [
    "space=quickstart", "sweep=e2e", "setting.model=lenet", "repeats=2", "protocol.warmup_steps=3", "protocol.steps=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> tuple[Commands, str]:
    commands = Commands(tmp_path_factory.mktemp("sweep"), ray_address)
    done = commands.run("sweep", *ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    return commands, done.stdout


def ledger_folder(commands: Commands) -> Path:
    return commands.folder / "mlruns/ledger/quickstart/e2e"


def rows(commands: Commands) -> list[dict]:
    return pq.read_table(ledger_folder(commands)).to_pylist()


def analysis_json(commands: Commands) -> dict:
    done = commands.run("analysis", str(ledger_folder(commands)), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_planned_leg_has_one_row(swept: tuple[Commands, str]) -> None:
    commands, _ = swept
    plan = json.loads(commands.run("plan", *ARGUMENTS, "--json").stdout)
    planned = [leg["leg_id"] for trial in plan["trials"] for leg in trial["legs"]]
    found = rows(commands)
    assert sorted(row["leg_id"] for row in found) == sorted(planned)
    assert len(planned) == 2 * 3 * 2
    for row in found:
        assert row["status"] == "ok", row["failure_message"]
        assert len(row["step_seconds"]) == len(row["data_seconds"]) == 11
        assert row["warmup_steps"] == 3
        assert all(0 < wait < step for wait, step in zip(row["data_seconds"], row["step_seconds"], strict=True))
        phases = zip(row["data_seconds"], row["forward_seconds"], row["backward_seconds"], strict=True)
        for step, parts in zip(row["step_seconds"], phases, strict=True):
            assert sum(parts) < 2 * step  # each a maximum over ranks, so together they may pass one rank's step
        assert row["samples_per_step"] == row["global_batch"] == 32
        assert row["peak_device_bytes"] is None
        assert row["peak_host_bytes"] > 100 * 2**20
        assert row["train_seconds"] == pytest.approx(sum(row["step_seconds"]))


def test_arms_of_a_trial_saw_the_same_experiment(swept: tuple[Commands, str]) -> None:
    trials = defaultdict(list)
    for row in rows(swept[0]):
        trials[row["trial_id"]].append(row)
    assert len(trials) == 2
    for legs in trials.values():
        assert len({row["process_group"] for row in legs}) == 1
        assert len({row["first_loss"] for row in legs}) == 1
        assert len({json.loads(row["facts"])["initial_weights"] for row in legs}) == 1
        assert len({row["final_loss"] for row in legs}) == 1  # fp32, so to the last digit
    assert len({row["first_loss"] for row in rows(swept[0])}) == 2  # another repeat, another seed


def test_a_block_has_no_process_but_its_runner_and_its_workers(swept: tuple[Commands, str]) -> None:
    from ray._private.state import state

    classes = {actor["ActorClassName"] for actor in state.actor_table(None).values()}
    started = {name for name in classes if name.endswith(("RayTrainWorker", "BlockRunner", "Recorder"))}
    assert len(started) == 3, classes
    unwanted = ("DatasetManager", "SynchronizationActor", "_AutoscalingCoordinatorActor", "TrainController", "Cleaner")
    assert [name for name in classes if name.endswith(unwanted)] == []


def test_json_agrees_with_the_raw_steps(swept: tuple[Commands, str]) -> None:
    means = {(row["trial_id"], row["arm"], row["round"]): sum(row["step_seconds"][3:]) / 8 for row in rows(swept[0])}
    trials = sorted({trial for trial, _, _ in means})
    comparisons = {c["arm"]: c for c in analysis_json(swept[0])["comparisons"]}
    assert set(comparisons) == {"zero1", "zero3"}
    for arm, comparison in comparisons.items():
        ratios = [
            sum(math.log(means[trial, "ddp", r]) - math.log(means[trial, arm, r]) for r in (0, 1)) / 2
            for trial in trials
        ]
        mean = sum(ratios) / len(ratios)
        deviation = math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / (len(ratios) - 1))
        half = stats.t.ppf(0.975, len(ratios) - 1) * deviation / math.sqrt(len(ratios))
        assert comparison["n_trials"] == 2
        assert comparison["speedup"] == pytest.approx(math.exp(mean), rel=1e-9)
        assert comparison["ci_low"] == pytest.approx(math.exp(mean - half), rel=1e-9)
        assert comparison["ci_high"] == pytest.approx(math.exp(mean + half), rel=1e-9)


def test_mlflow_is_a_view_of_the_ledger(swept: tuple[Commands, str]) -> None:
    from mlflow.tracking import MlflowClient

    commands, _ = swept
    client = MlflowClient(f"sqlite:///{commands.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if run.data.tags["raybench.kind"] == "sweep"]
    children = {run.data.tags["raybench.leg_id"]: run for run in runs if run.data.tags["raybench.kind"] == "leg"}
    assert len(parents) == 1
    found = rows(commands)
    assert set(children) == {row["leg_id"] for row in found}
    arms = {run.data.params["arm"]: run for run in runs if run.data.tags["raybench.kind"] == "arm"}
    assert set(arms) == {"ddp", "zero1", "zero3"}
    assert len(runs) == len(parents) + len(arms) + len(children)
    assert {run.data.tags["mlflow.parentRunId"] for run in arms.values()} == {parents[0].info.run_id}
    for row in found:
        run = children[row["leg_id"]]
        measured = row["step_seconds"][3:]
        assert run.data.tags["mlflow.parentRunId"] == arms[row["arm"]].info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.metrics["step_ms_mean"] == pytest.approx(1000 * sum(measured) / 8, rel=1e-5)
        assert run.data.metrics["samples_per_second"] == pytest.approx(32 * 8 / sum(measured), rel=1e-5)
        assert run.data.metrics["final_loss"] == pytest.approx(row["final_loss"], rel=1e-5)
        assert run.data.params["arm"] == row["arm"]
        assert run.data.params["zero_stage"] == {"ddp": "none", "zero1": "1", "zero3": "3"}[row["arm"]]
    artifacts = {file.path for file in client.list_artifacts(arms["zero3"].info.run_id)}
    assert artifacts == {"environment.json", "facts.json", "arm_config.json"}
    speedups = {c["arm"]: c["speedup"] for c in analysis_json(commands)["comparisons"]}
    for arm, speedup in speedups.items():
        assert parents[0].data.metrics[f"speedup/{arm}/lenet digits b32 fp32 w2"] == speedup
        assert arms[arm].data.metrics["speedup"] == speedup
    assert "zero3" in parents[0].data.tags["mlflow.note.content"]
    assert {"analysis.json", "_space.yaml", "report", "ledger"} == {
        file.path for file in client.list_artifacts(parents[0].info.run_id)
    }


def test_the_terminal_ends_with_the_answer_and_the_table(swept: tuple[Commands, str]) -> None:
    _, output = swept
    assert "Traceback" not in output
    assert len(re.findall(r"ms a step", output)) == 12
    assert output.index("zero3") < output.index("Speedup is ddp's time")
    assert "python -m raybench.analysis" in output


def test_the_same_command_again_runs_nothing(swept: tuple[Commands, str]) -> None:
    commands, _ = swept
    before = {file: file.stat().st_mtime_ns for file in ledger_folder(commands).glob("*.parquet")}
    again = commands.run("sweep", *ARGUMENTS)
    assert again.returncode == 0, again.stderr
    assert "12 of 12 legs are in the ledger; 0 to run" in again.stdout
    assert before == {file: file.stat().st_mtime_ns for file in ledger_folder(commands).glob("*.parquet")}


def test_the_space_beside_the_ledger_is_the_same_sweep(swept: tuple[Commands, str]) -> None:
    commands, _ = swept
    original = json.loads(commands.run("plan", *ARGUMENTS, "--json").stdout)
    written = commands.run("plan", f"space={ledger_folder(commands) / '_space.yaml'}", "--json")
    ids = [[leg["leg_id"] for trial in plan["trials"] for leg in trial["legs"]] for plan in
           (original, json.loads(written.stdout))]  # fmt: skip
    assert ids[0] == ids[1]


def test_the_same_name_with_another_protocol_is_refused(swept: tuple[Commands, str]) -> None:
    refused = swept[0].run("sweep", *ARGUMENTS[:-1], "protocol.steps=9")
    assert refused.returncode == 2
    assert "another protocol" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_without_a_server_sync_says_so_in_a_line(swept: tuple[Commands, str], tmp_path: Path) -> None:
    there = Commands(tmp_path)
    there.environment |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = there.run("sync", str(ledger_folder(swept[0])))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "http://127.0.0.1:1" in done.stderr
