"""Writes MLflow in the background: a thread with a queue, so that no measurement waits for a tracking server."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading

from raybench.ledger.quantities import Row
from raybench.redaction import first_line


class MlflowThread:
    """Writes rows to MLflow in the background and keeps errors for the end."""

    def __init__(self, tracking_uri: str, artifact_root: str, space: str, sweep: str) -> None:
        self._arguments = (tracking_uri, artifact_root, space, sweep)
        self._rows: queue.Queue[list[Row] | None] = queue.Queue()
        self._errors: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow")
        self._thread.start()

    def log(self, rows: list[Row]) -> None:
        """Hand over rows to be written; returns at once."""
        if rows:
            self._rows.put(rows)

    def finish(self) -> list[str]:
        """Write everything handed over. Returns the errors."""
        self._rows.put(None)
        self._thread.join()
        return self._errors

    def _run(self) -> None:
        # `record` releases the interpreter's lock several times, to write and to flush. Each time it would wait
        # Python's default of 5 ms for MLflow's thread to release the lock.
        sys.setswitchinterval(0.0005)
        from raybench.tracking.mlflow_runs import Tracker

        tracker: Tracker | None = None
        with contextlib.suppress(Exception):  # while the first processes start; if it fails, again with the first rows
            tracker = Tracker(*self._arguments)
        while (rows := self._rows.get()) is not None:
            if self._errors:
                continue  # after an error MLflow is left alone until the sweep's end, which tries once more
            try:
                tracker = tracker or Tracker(*self._arguments)
                tracker.log_rows(rows)
            except Exception as error:  # MLflow's errors must not stop a measurement; they are reported at the end
                self._errors.append(f"{type(error).__name__}: {first_line(error)}")
