"""MLflow as a view of the ledger: one experiment a space, one parent run a sweep, one child run a leg.

Everything is made from ledger rows, and a leg that MLflow has already is passed over, so writing the same rows
again changes nothing, and an empty server is filled from the ledger. The only module that imports mlflow.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A server that is gone is noticed within a minute, and not after MLflow's usual many.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils import mlflow_tags

__all__ = ["MlflowException", "Tracker", "default_tracking_uri", "leg_metrics", "leg_params"]

LEG_TAG, SWEEP_TAG, KIND_TAG = "raybench.leg_id", "raybench.sweep", "raybench.kind"
_UNFIT = re.compile(r"[^\w\-. :/]")


def default_tracking_uri() -> str:
    """MLflow's own choice (MLFLOW_TRACKING_URI, else its default) with a database file's path made absolute."""
    uri = str(mlflow.get_tracking_uri())
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return f"{prefix}{Path(uri.removeprefix(prefix)).absolute()}"
    return uri


class Tracker:
    """Writes one sweep's legs and summary to MLflow. Raises mlflow's own exceptions."""

    def __init__(self, tracking_uri: str, artifact_root: str, space: str, sweep: str) -> None:
        self.client = MlflowClient(tracking_uri=tracking_uri)
        self.sweep = sweep
        local = tracking_uri.startswith(("sqlite:", "file:", "/"))
        self.experiment_id = self._experiment(space, f"{artifact_root}/{space}" if local else None)
        self.parent = self._parent()
        self.logged = self._legs_logged()

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, artifact_location=artifact_location))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _search(self, kind: str) -> list[Run]:
        text = f"tags.`{SWEEP_TAG}` = '{self.sweep}' and tags.`{KIND_TAG}` = '{kind}'"
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], text, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _parent(self) -> str:
        found = self._search("sweep")
        if found:
            return str(found[0].info.run_id)
        tags = {SWEEP_TAG: self.sweep, KIND_TAG: "sweep"}
        return str(self.client.create_run(self.experiment_id, run_name=self.sweep, tags=tags).info.run_id)

    def _legs_logged(self) -> set[str]:
        """The legs whose run is complete; a run that was cut while it was written is deleted."""
        logged = set()
        for run in self._search("leg"):
            if run.info.status == "RUNNING":
                self.client.delete_run(run.info.run_id)
            else:
                logged.add(run.data.tags[LEG_TAG])
        return logged

    def log_rows(self, rows: list[dict[str, Any]]) -> int:
        """Write the ledger rows that MLflow lacks, a child run each. Returns how many those were."""
        missing = [row for row in rows if row["leg_id"] not in self.logged]
        for row in missing:
            self._log_leg(row)
            self.logged.add(row["leg_id"])
        return len(missing)

    def _log_leg(self, row: dict[str, Any]) -> None:
        started = int(row["started_at"].timestamp() * 1000)
        environment = json.loads(row["environment"])
        tags = {
            mlflow_tags.MLFLOW_PARENT_RUN_ID: self.parent,
            mlflow_tags.MLFLOW_SOURCE_NAME: "raybench",
            SWEEP_TAG: self.sweep,
            KIND_TAG: "leg",
            LEG_TAG: row["leg_id"],
            "raybench.setting_id": row["setting_id"],
            "raybench.trial_id": row["trial_id"],
            "raybench.setting": row["setting"],
        }
        if environment.get("git_commit"):
            tags[mlflow_tags.MLFLOW_GIT_COMMIT] = environment["git_commit"]
        if row["status"] == "failed":
            tags |= {"raybench.failure_kind": row["failure_kind"], "raybench.failure": row["failure_message"][:5000]}
        name = f"{row['arm']} | {row['setting']} | repeat {row['repeat']} round {row['round']}"
        run = self.client.create_run(self.experiment_id, start_time=started, run_name=name, tags=tags)
        run_id = run.info.run_id
        end = started + int(1000 * sum(row[key] or 0 for key in ("setup_seconds", "train_seconds", "eval_seconds")))
        params = [Param(key, str(value)[:6000]) for key, value in leg_params(row).items()]
        metrics = [Metric(key, value, end, 0) for key, value in leg_metrics(row).items()]
        self.client.log_batch(run_id, metrics=metrics, params=params, tags=[])
        config = json.loads(row["facts"]).get("informative", {}).get("deepspeed_config")
        self.client.log_dict(run_id, environment, "environment.json")
        self.client.log_dict(run_id, json.loads(row["facts"]), "facts.json")
        if config is not None or row["engine"] == "deepspeed":
            config = config or json.loads(row["arm_config"]).get("deepspeed_config")
            self.client.log_dict(run_id, config, "deepspeed_config.json")
        self.client.set_terminated(run_id, "FAILED" if row["status"] == "failed" else "FINISHED", end)

    def finish(self, summary: dict[str, Any], artifacts: dict[str, str]) -> None:
        """Put the sweep's speedups, its answer in words and its files on the parent run.

        `summary`: {"metrics": {name: number}, "note": Markdown, "tags": {...}}; `artifacts`: file name -> text.
        """
        end = 0
        metrics = [Metric(_UNFIT.sub("_", key), value, end, 0) for key, value in summary["metrics"].items()]
        for begin in range(0, len(metrics), 1000):
            self.client.log_batch(self.parent, metrics=metrics[begin : begin + 1000])
        tags = {"mlflow.note.content": summary["note"], **summary.get("tags", {})}
        self.client.log_batch(self.parent, tags=[RunTag(key, str(value)[:8000]) for key, value in tags.items()])
        with tempfile.TemporaryDirectory() as folder:
            for name, text in artifacts.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            self.client.log_artifacts(self.parent, folder)
        self.client.set_terminated(self.parent)


def leg_params(row: dict[str, Any]) -> dict[str, Any]:
    """The flat parameters of a leg's run, by which MLflow compares and groups."""
    facts, config = json.loads(row["facts"]), json.loads(row["arm_config"])
    optimizer = facts.get("optimizer", {})
    zero = (config.get("deepspeed_config") or {}).get("zero_optimization") or {}
    params = {
        key: row[key]
        for key in (
            "model", "family", "dataset", "precision", "arm", "engine", "is_baseline", "workers", "micro_batch",
            "accumulation", "repeat", "round", "position", "seed", "setting",
        )
    }  # fmt: skip
    params |= {
        "batch": row["global_batch"],
        "zero_stage": zero.get("stage", 0) if row["engine"] == "deepspeed" else "none",
    }
    if optimizer:
        params |= {f"optimizer_{key}": value for key, value in optimizer.items()}
    params |= {key: facts[key] for key in ("num_parameters", "autocast", "gradient_clipping") if key in facts}
    return params


def leg_metrics(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a leg's run: step time, throughput, memory, loss; none for a failure."""
    if row["status"] != "ok":
        return {}
    measured = np.asarray(row["step_seconds"][row["warmup_steps"] :])
    data = np.asarray(row["data_seconds"][row["warmup_steps"] :])
    p50, p90, p99 = np.percentile(measured, [50, 90, 99])
    values = {
        "step_seconds_mean": measured.mean(),
        "step_seconds_p50": p50,
        "step_seconds_p90": p90,
        "step_seconds_p99": p99,
        "samples_per_second": row["samples_per_step"] / measured.mean(),
        "data_wait_share": data.sum() / measured.sum(),
    }
    for key in ("forward_seconds", "backward_seconds", "optimizer_seconds"):
        if row.get(key) is not None:
            values[f"{key}_mean"] = np.mean(row[key][row["warmup_steps"] :])
    for key in (
        "peak_device_bytes", "peak_host_bytes", "setup_seconds", "train_seconds", "eval_seconds", "first_loss",
        "final_loss", "accuracy",
    ):  # fmt: skip
        if row[key] is not None:
            values[key] = row[key]
    return {key: float(value) for key, value in values.items()}
