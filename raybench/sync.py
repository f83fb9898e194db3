"""Bring MLflow up to date with a ledger.

    python -m raybench.sync LEDGER

Writes what MLflow lacks and nothing twice; an empty server is filled from the ledger alone.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.ledger import Ledger, read_ledger
from raybench.sweep import mlflow_summary

USAGE = """
usage: python -m raybench.sync LEDGER

Bring MLflow (MLFLOW_TRACKING_URI, else its own default) up to date with the ledger of a sweep. Nothing is written
twice: run it as often as you like.

example: python -m raybench.sync mlruns/ledger/quickstart/friday
"""


def main(argv: list[str]) -> int:
    """Write a ledger's sweeps to MLflow. Returns 0; raises UserError for what is no ledger or no reachable MLflow."""
    arguments = parse_arguments(argv, usage=USAGE, positionals=(1, 1))
    if arguments.values:
        raise UserError(f"unknown key {next(iter(arguments.values))!r}; this command takes a ledger only")
    folder = Path(arguments.positionals[0])
    read_ledger(folder, ["leg_id"])
    rows = Ledger(folder).rows()
    from raybench.tracking import MlflowException, Tracker, default_tracking_uri

    uri = default_tracking_uri()
    written = 0
    try:
        for space, sweep in dict.fromkeys((row["space"], row["sweep"]) for row in rows):
            tracker = Tracker(uri, str(Path("mlruns/artifacts").absolute()), space, sweep)
            written += tracker.log_rows([row for row in rows if (row["space"], row["sweep"]) == (space, sweep)])
            tracker.finish(*mlflow_summary(folder))
    except MlflowException as error:
        raise UserError(f"{uri}: MLflow does not take it: {str(error).splitlines()[0]}") from None
    Console().print(
        f"MLflow at {uri}: {written} legs written, {len(rows) - written} were there already", soft_wrap=True
    )
    return 0


if __name__ == "__main__":
    run_command(main)
