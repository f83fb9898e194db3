"""MLflow as a view of the ledger: an experiment per space, in it a run per sweep, below it a run per arm and setting,
below that a run per leg.

Everything is made from ledger rows, and legs that MLflow already has are skipped. So writing the same rows again
changes nothing, and an empty server is filled from the ledger. This is the only module that imports mlflow.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Notice an unreachable server within a minute; MLflow's defaults take many.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Dataset, DatasetInput, ExperimentTag, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags
from sqlalchemy.exc import SQLAlchemyError

from raybench.ledger.quantities import Row, own_seconds
from raybench.tracking import runs, views

__all__ = ["TROUBLES", "SweepSummary", "Tracker", "default_tracking_uri"]

# MLflow's exceptions when it is unreachable, refuses, or lacks its database's driver.
TROUBLES = (MlflowException, SQLAlchemyError, OSError, ImportError)

SWEEP_TAG, KIND_TAG, LEG_TAG = "raybench.sweep", "raybench.kind", "raybench.leg_id"
SPACE_TAG, COLOUR_TAG = "raybench.space", "mlflow.runColor"  # the latter is MLflow's own
SETTING_TAG, ARM_TAG = "raybench.setting_id", "raybench.arm"
_MAX_METRICS, _MAX_PARAMS_AND_TAGS = 800, 90  # per request; MLflow accepts 1,000 in total and 100 of each


@dataclass(frozen=True)
class SweepSummary:
    """What the runs of a sweep and of its arms contain once its legs are there."""

    note: str  # Markdown
    metrics: dict[str, float]
    params: dict[str, str] = field(default_factory=dict)  # for the sweep's run; written once
    arm_metrics: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)  # by setting_id and arm
    arm_tags: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    arm_rows: dict[tuple[str, str], Row] = field(default_factory=dict)  # one leg of each arm


def default_tracking_uri() -> str:
    """MLflow's own choice (MLFLOW_TRACKING_URI, else its default) with a database file's path made absolute."""
    uri = str(mlflow.get_tracking_uri())
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return f"{prefix}{Path(uri.removeprefix(prefix)).absolute()}"
    return uri


class Tracker:
    """Writes one sweep to MLflow. Raises `TROUBLES`.

    Runs whose writing was interrupted, or that were written twice because an answer got lost, are deleted here.
    """

    def __init__(self, tracking_uri: str, artifact_root: str, space: str, sweep: str) -> None:
        self.client = MlflowClient(tracking_uri=tracking_uri)
        self.sweep = sweep
        local = tracking_uri.startswith(("sqlite:", "file:", "/"))
        self.space = space
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or space
        self.experiment_id = self._experiment(name, f"{artifact_root}/{name}" if local else None)
        self.colours: dict[str, str] = {}  # of the arms, the same in every setting
        self.sweep_run: Run | None = None
        self.arm_runs: dict[tuple[str, str], Run] = {}
        self.logged: dict[str, tuple[str, int]] = {}  # leg -> its run, and when that began
        self.ends: dict[tuple[str, str], int] = {}  # of each arm's last leg so far, in milliseconds since the epoch
        self._find_runs()

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            tags: dict[str, Any] = views.experiment_tags(self.space)
            return str(self.client.create_experiment(name, artifact_location=artifact_location, tags=tags))
        if found.lifecycle_stage == "deleted":
            raise MlflowException(
                f"experiment {name!r} was deleted in MLflow; bring it back with `mlflow experiments restore "
                f"--experiment-id {found.experiment_id}`, or name another in MLFLOW_EXPERIMENT_NAME"
            )
        for tag in (ExperimentTag(*item) for item in views.experiment_tags(self.space).items()):
            there = found.tags.get(tag.key)
            own_words = tag.key == "mlflow.note.content" and there and not there.startswith("Space `")
            if there != tag.value and not own_words:
                self.client.set_experiment_tag(found.experiment_id, tag.key, tag.value)
        return str(found.experiment_id)

    def _find_runs(self) -> None:
        """Find this sweep's runs in MLflow; among several for one thing, keep those with children, then the oldest."""
        found = self._search(f"tags.`{SWEEP_TAG}` = {_quoted(self.sweep)}")
        children = Counter(run.data.tags.get(mlflow_tags.MLFLOW_PARENT_RUN_ID) for run in found)
        found.sort(key=lambda run: (-children[run.info.run_id], run.info.start_time, run.info.run_id))
        for run in found:
            tags = run.data.tags
            if tags.get(SPACE_TAG, self.space) != self.space:
                continue  # a sweep of the same name, of another space in one experiment
            if colour := tags.get(COLOUR_TAG):
                self.colours[tags.get(ARM_TAG, "")] = colour
            kind, key = tags.get(KIND_TAG), (tags.get(SETTING_TAG, ""), tags.get(ARM_TAG, ""))
            cut = kind == "leg" and run.info.status == "RUNNING"
            if kind == "sweep" and self.sweep_run is None:
                self.sweep_run = run
            elif kind == "arm" and key not in self.arm_runs:
                self.arm_runs[key] = run
            elif kind == "leg" and not cut and tags[LEG_TAG] not in self.logged:
                self.logged[tags[LEG_TAG]] = (run.info.run_id, run.info.start_time)
            else:
                self.client.delete_run(run.info.run_id)

    def _search(self, text: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], text, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def log_rows(self, rows: Sequence[Row]) -> int:
        """Write the ledger rows that MLflow lacks, a run each. Returns how many there were.

        A leg that ran again, because its row was damaged or withdrawn, loses the run of its first time.
        """
        missing = sorted((row for row in rows if not self._has(row)), key=_milliseconds)
        for row in rows:
            key = (row["setting_id"], row["arm"])
            self.ends[key] = max(self.ends.get(key, 0), _end(row))
        if rows and self.sweep_run is None:
            begun = min(_milliseconds(row) for row in rows)
            first = min(rows, key=_milliseconds)
            self.sweep_run = self._create("sweep", runs.sweep_name(first), begun, {})
        for row in missing:
            if row["leg_id"] in self.logged:
                self.client.delete_run(self.logged.pop(row["leg_id"])[0])
            run_id = self._log_leg(row, self._arm_run(row))
            self.logged[row["leg_id"]] = (run_id, _milliseconds(row))
        return len(missing)

    def _create(self, kind: str, name: str, start: int, tags: Mapping[str, str], parent: Run | None = None) -> Run:
        tags = {
            SWEEP_TAG: self.sweep,
            SPACE_TAG: self.space,
            KIND_TAG: kind,
            mlflow_tags.MLFLOW_SOURCE_NAME: "raybench",
            mlflow_tags.MLFLOW_SOURCE_TYPE: "LOCAL",
            **({mlflow_tags.MLFLOW_PARENT_RUN_ID: parent.info.run_id} if parent is not None else {}),
            **tags,
        }
        return self.client.create_run(self.experiment_id, start_time=start, run_name=name, tags=tags)

    def _arm_run(self, row: Row) -> Run:
        """The run of the row's arm in its setting, created with its first leg; facts come from the first that ran."""
        key = (row["setting_id"], row["arm"])
        run = self.arm_runs.get(key)
        if run is None:
            tags = {**self._tags(row), "raybench.setting": row["setting"]}
            run = self._create("arm", runs.arm_name(row), _milliseconds(row), tags, self.sweep_run)
            self.arm_runs[key] = run
        if "arm" not in run.data.params and row["status"] == "ok":
            self._describe_arm(key, row)
        return run

    def _describe_arm(self, key: tuple[str, str], row: Row) -> None:
        """Write an arm's description to its run; parameters come last, because they mark it as described."""
        run_id = self.arm_runs[key].info.run_id
        for name in ("environment", "facts", "arm_config"):
            self.client.log_dict(run_id, json.loads(row[name]), f"{name}.json")
        self._log_inputs(self.arm_runs[key], row)
        self._write(self.arm_runs[key], {}, runs.arm_params(row), [])
        self.arm_runs[key] = self.client.get_run(run_id)

    def forget(self, rows: Sequence[Row]) -> None:
        """Delete the runs of rows that were withdrawn from the ledger; a leg's later runs stay."""
        for row in rows:
            if self._has(row):
                self.client.delete_run(self.logged.pop(row["leg_id"])[0])

    def _has(self, row: Row) -> bool:
        """Whether MLflow has a run of this row: the same leg, begun at the row's time."""
        return self.logged.get(row["leg_id"], ("", None))[1] == _milliseconds(row)

    def _log_leg(self, row: Row, parent: Run) -> str:
        started = _milliseconds(row)
        tags = {
            **self._tags(row),
            LEG_TAG: row["leg_id"],
            "raybench.trial_id": row["trial_id"],
            "raybench.setting": row["setting"],
        }
        if row["status"] == "failed":
            tags |= {"raybench.failure_kind": row["failure_kind"], "raybench.failure": row["failure_message"][:5000]}
        run = self._create("leg", runs.leg_name(row), started, tags, parent)
        end = _end(row)
        metrics = [Metric(key, value, end, 0) for key, value in runs.leg_metrics(row).items()]
        for name, points in (runs.leg_curves(row) | runs.system_curves(row)).items():
            metrics += [Metric(name, value, started + int(1000 * after), step) for step, after, value in points]
        self._write(run, {}, runs.leg_params(row), metrics)
        self._log_inputs(run, row)
        self.client.set_terminated(run.info.run_id, "FAILED" if row["status"] == "failed" else "FINISHED", end)
        return str(run.info.run_id)

    def _tags(self, row: Row) -> dict[str, str]:
        """The row's place, its arm's colour, and the commit that measured it."""
        taken = list(self.colours.values())
        colour = self.colours.setdefault(row["arm"], min(views.COLOURS, key=taken.count))
        tags = {SETTING_TAG: row["setting_id"], ARM_TAG: row["arm"], COLOUR_TAG: colour}
        commit = json.loads(row["environment"]).get("git_commit")
        return tags | ({mlflow_tags.MLFLOW_GIT_COMMIT: commit} if commit else {})

    def _log_inputs(self, run: Run, row: Row) -> None:
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run.info.run_id, [DatasetInput(Dataset(**runs.dataset(row)), [context])])

    def _write(self, run: Run, tags: Mapping[str, str], params: Mapping[str, str], metrics: Sequence[Metric]) -> None:
        """Write tags, parameters and metrics in as few requests as MLflow allows; only new tags."""
        new = [RunTag(key, value[:8000]) for key, value in tags.items() if run.data.tags.get(key) != value[:8000]]
        written = [Param(key, value) for key, value in params.items()]
        for begin in range(0, len(new), _MAX_PARAMS_AND_TAGS):
            self.client.log_batch(run.info.run_id, tags=new[begin : begin + _MAX_PARAMS_AND_TAGS])
        for begin in range(0, max(len(metrics), len(written) and 1), _MAX_METRICS):
            self.client.log_batch(
                run.info.run_id, metrics[begin : begin + _MAX_METRICS], params=written if begin == 0 else []
            )

    def links(self) -> dict[str, Any]:
        """This sweep's runs: experiment_id, sweep_run, and arm_runs as {setting_id: {arm: run id}}."""
        found: dict[str, dict[str, str]] = {}
        for (setting_id, arm), run in sorted(self.arm_runs.items()):
            found.setdefault(setting_id, {})[arm] = run.info.run_id
        sweep = self.sweep_run.info.run_id if self.sweep_run else None
        return {"experiment_id": self.experiment_id, "sweep_run": sweep, "arm_runs": found}

    def finish(self, summary: SweepSummary, artifacts: Path) -> None:
        """Write the analysis to the runs of sweep and arms, add the folder's files to the sweep's run, and end them."""
        assert self.sweep_run is not None, "log_rows comes first"
        for key, run in list(self.arm_runs.items()):
            if key not in self.ends:
                continue  # of another part of the ledger, which is not here
            if "arm" not in run.data.params and key in summary.arm_rows:
                self._describe_arm(key, summary.arm_rows[key])
            self._update(
                self.arm_runs[key], summary.arm_metrics.get(key, {}), summary.arm_tags.get(key, {}), self.ends[key]
            )
        self.client.log_artifacts(self.sweep_run.info.run_id, str(artifacts))
        if "space" not in self.sweep_run.data.params and summary.params:
            self._write(self.sweep_run, {}, summary.params, [])
        note = {mlflow_tags.MLFLOW_RUN_NOTE: summary.note}
        self._update(self.sweep_run, summary.metrics, note, max(self.ends.values()))

    def _update(self, run: Run, metrics: Mapping[str, float], tags: Mapping[str, str], end: int) -> None:
        """Write new or changed values: a resumed sweep revises its speedups, a second sync changes nothing."""
        now = int(time.time() * 1000)
        changed = [Metric(key, value, now, 0) for key, value in metrics.items() if run.data.metrics.get(key) != value]
        self._write(run, tags, {}, changed)
        if run.info.status == "RUNNING" or run.info.end_time != end:
            status = "FAILED" if metrics.get("legs_measured") == 0 else "FINISHED"
            self.client.set_terminated(run.info.run_id, status, end)


def _milliseconds(row: Row) -> int:
    """When the leg began, since the epoch."""
    return int(row["started_at"].timestamp() * 1000)


def _end(row: Row) -> int:
    """When the leg ended, since the epoch."""
    return _milliseconds(row) + int(1000 * own_seconds(row))


def _quoted(text: str) -> str:
    """A text in MLflow's filter language, which has no escapes, only two kinds of quotes."""
    return f'"{text}"' if "'" in text else f"'{text}'"
