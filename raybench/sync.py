"""Bring MLflow up to date with ledgers.

    python -m raybench.sync LEDGER...

Writes what MLflow lacks and nothing twice; an empty server is filled from the ledger alone.
"""

from __future__ import annotations

from rich.console import Console

from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.ledger.lock import sweep_lock
from raybench.ledger.reading import ledger_files, read_ledger
from raybench.ledger.storage import to_path
from raybench.redaction import without_secrets

USAGE = """
usage: python -m raybench.sync LEDGER...

Bring MLflow (MLFLOW_TRACKING_URI, else its own default) up to date with the ledgers of sweeps: the legs that it
lacks, the speedups and verdicts, the report. Nothing is written twice: run it as often as you like.

  LEDGER    the folder of a sweep, or one above several: mlruns/ledger brings everything; a URI, too

A server with basic authentication takes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

examples:
  python -m raybench.sync mlruns/ledger/quickstart/friday
  MLFLOW_TRACKING_URI=http://tracking.example:5000 python -m raybench.sync mlruns/ledger
"""


def main(argv: list[str]) -> int:
    """Write the sweeps of ledgers to MLflow. Returns 0; raises UserError for what is no ledger or no willing MLflow."""
    arguments = parse_arguments(argv, usage=USAGE, positionals=(1, 1_000_000))
    if arguments.values:
        raise UserError(f"unknown key {next(iter(arguments.values))!r}; this command takes ledgers only")
    paths = [to_path(path) for path in arguments.positionals]
    folders = dict.fromkeys(file.parent.absolute() for path in paths for file in ledger_files(path))
    for folder in folders:
        read_ledger(folder, ["leg_id"])
    from raybench.tracking.publishing import destination, publish

    uri, artifact_root = destination()
    written = there = 0
    for folder in folders:
        with sweep_lock(folder):
            done = publish(folder, uri, artifact_root)
        if done.error:
            raise UserError(f"{without_secrets(uri)}: MLflow does not take it: {done.error}")
        written += done.written
        there += done.there
    told = f"MLflow at {without_secrets(uri)}: {written} legs written, {there} were there already"
    Console().print(told, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_command(main)
