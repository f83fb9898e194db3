"""The recorder: one actor beside the driver, the single writer of the ledger and of MLflow.

A worker hands over a leg's outcome and goes on when `record` has returned: the row is durable then. MLflow is
written when a trial has ended, in a thread of the recorder's own, while the next trial's processes start and
nothing is timed; if MLflow is slow or gone, measuring goes on and `raybench sync` brings it up to date later.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench import outcome as outcomes
from raybench.ledger import Ledger
from raybench.plan import Leg, Plan, Trial
from raybench.redaction import first_line

ACTOR_NAMESPACE = "raybench"


class Recorder:
    """The state of a running sweep: which legs have an outcome, which one runs. A Ray actor in a sweep."""

    def __init__(
        self,
        plan_json: str,
        folder: str,
        space_yaml: str,
        tracking_uri: str,
        artifact_root: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`variables`: the driver's MLFLOW_* variables, which do not reach an actor of a cluster by themselves."""
        os.environ.update(variables or {})
        self.plan = Plan.model_validate_json(plan_json)
        self.ledger = Ledger(Path(folder))
        self.space_yaml = space_yaml
        self.legs: dict[str, tuple[Trial, Leg]] = {leg.leg_id: (trial, leg) for trial, leg in self.plan.legs()}
        self.trials = {trial.trial_id: trial for trial in self.plan.trials}
        self.done = self.ledger.leg_ids()
        self.running: dict[str, tuple[str, float, str]] = {}  # process group -> its leg, when that began, on which node
        self.active: dict[str, float] = {}  # trial -> when its processes were asked for
        self.draining = False
        self.events: list[dict[str, Any]] = []
        self.unlogged: dict[str, list[dict[str, Any]]] = {}  # trial -> rows that MLflow does not have
        self.mlflow = MlflowThread(tracking_uri, artifact_root, self.plan.space, self.plan.sweep)
        rows = self.ledger.rows()
        self.mlflow.log(rows)
        self.batches: dict[str, dict[str, dict[str, Any]]] = {}  # setting -> arm -> how its largest batch was found
        for row in rows:
            self._note_batch(row)

    def trial(self, trial_id: str) -> str:
        """The trial as JSON."""
        return self.trials[trial_id].model_dump_json()

    def trial_began(self, trial_id: str) -> str:
        """A trial is about to start its processes. Returns it as JSON."""
        self.active[trial_id] = time.time()
        return self.trial(trial_id)

    def remaining(self, trial_id: str) -> list[str]:
        """The trial's legs that have no outcome yet, in their order; none once the sweep is to stop."""
        if self.draining:
            return []
        return [leg.leg_id for leg in self.trials[trial_id].legs if leg.leg_id not in self.done]

    def largest_batches(self, trial_id: str) -> dict[str, dict[str, Any]]:
        """What is known of the largest batches of the trial's setting, by arm (`Measurement.batch_probes`)."""
        return self.batches.get(self.trials[trial_id].setting_id, {})

    def _note_batch(self, row: dict[str, Any]) -> None:
        if row.get("batch_probes"):
            self.batches.setdefault(row["setting_id"], {})[row["arm"]] = json.loads(row["batch_probes"])

    def drain(self) -> None:
        """Begin no further leg: those that run end, and what is left waits for the same command again."""
        self.draining = True

    def begin(self, process_group: str, leg_id: str, node: str = "") -> bool:
        """A process group is about to run this leg. Returns whether it may: False once the sweep is to stop."""
        if not self.draining:
            self.running[process_group] = (leg_id, time.time(), node)
        return not self.draining

    def unfinished(self, process_group: str) -> tuple[str, float] | None:
        """The leg that a process group had begun and not ended, and the seconds since it began."""
        if process_group not in self.running:
            return None
        leg_id, begun, _ = self.running.pop(process_group)
        return None if leg_id in self.done else (leg_id, time.time() - begun)

    def record(self, process_group: str, leg_id: str, values: dict[str, Any]) -> None:
        """Write a leg's outcome; durable when this returns. A leg that has one keeps its first."""
        _, begun, _ = self.running.pop(process_group, (leg_id, time.time(), ""))
        if leg_id in self.done:
            return
        outcome = replace(outcomes.from_dict(values), process_group=process_group)
        trial, leg = self.legs[leg_id]
        if not self.events:
            self.ledger.write_space(self.space_yaml)  # the latest: more repeats may be asked for than at first
        row = self.ledger.add(self.plan.sweep, self.plan.space, trial, leg, outcome)
        self.done.add(leg_id)
        self._note_batch(row)
        self.unlogged.setdefault(trial.trial_id, []).append(row)
        now = time.time()
        times = {"seconds": now - begun, "trial_seconds": now - self.active.get(trial.trial_id, begun)}
        self.events.append({**leg_event(row), **times})

    def trial_ended(self, trial_id: str) -> None:
        """A trial's processes have ended: now MLflow may be written."""
        self.active.pop(trial_id, None)
        self.mlflow.log(self.unlogged.pop(trial_id, []))

    def news(self, since: int) -> dict[str, Any]:
        """What happened since event number `since`, the legs that run now, and how many trials have processes."""
        now = time.time()
        running = [
            {
                "setting": self.legs[leg_id][0].label, "arm": self.legs[leg_id][1].arm_name,
                "repeat": self.legs[leg_id][0].repeat, "round": self.legs[leg_id][1].round,
                "seconds": now - begun, "node": node,
            }
            for leg_id, begun, node in self.running.values()
        ]  # fmt: skip
        return {"events": self.events[since:], "running": running, "num_active": len(self.active)}

    def finish(self) -> list[str]:
        """Write the legs that MLflow lacks; returns MLflow's errors, if any. What is left is for `publishing`."""
        for trial_id in list(self.unlogged):
            self.trial_ended(trial_id)
        return self.mlflow.finish()


EVENT_COLUMNS = [
    "setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline", "status", "failure_kind",
    "failure_message", "step_seconds", "warmup_steps", "samples_per_step", "setup_seconds", "train_seconds",
    "eval_seconds",
]  # fmt: skip


def leg_event(row: dict[str, Any]) -> dict[str, Any]:
    """What there is to tell of a leg: the ledger row without its lists."""
    kept = ("setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline")
    event: dict[str, Any] = {key: row[key] for key in kept}
    if row["status"] == "failed":
        return {**event, "failure": f"{row['failure_kind']}: {row['failure_message']}"}
    measured = row["step_seconds"][row["warmup_steps"] :]
    taken = sum(row[key] or 0.0 for key in ("setup_seconds", "train_seconds", "eval_seconds"))
    return {
        **event,
        "mean_step_seconds": sum(measured) / len(measured),
        "samples_per_step": row["samples_per_step"],
        "seconds": taken,
    }


class MlflowThread:
    """Writes rows to MLflow in the background and keeps what went wrong for the end."""

    def __init__(self, tracking_uri: str, artifact_root: str, space: str, sweep: str) -> None:
        self._arguments = (tracking_uri, artifact_root, space, sweep)
        self._rows: queue.Queue[list[dict[str, Any]] | None] = queue.Queue()
        self._errors: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow")
        self._thread.start()

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Hand over rows to be written; returns at once."""
        if rows:
            self._rows.put(rows)

    def finish(self) -> list[str]:
        """Write everything that was handed over; returns the errors met."""
        self._rows.put(None)
        self._thread.join()
        return self._errors

    def _run(self) -> None:
        # `record` gives the interpreter's lock up several times, to write and to flush, and would wait each time
        # Python's usual 5 ms for MLflow's work to let go of it.
        sys.setswitchinterval(0.0005)
        from raybench.tracking import Tracker

        tracker: Tracker | None = None
        while (rows := self._rows.get()) is not None:
            if self._errors:
                continue  # after one trouble MLflow is left alone until the sweep's end, which tries once more
            try:
                tracker = tracker or Tracker(*self._arguments)
                tracker.log_rows(rows)
            except Exception as error:  # MLflow's trouble must not stop a measurement: it is told at the end
                self._errors.append(f"{type(error).__name__}: {first_line(error)}")
