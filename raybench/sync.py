"""Bring MLflow up to date with ledgers.

    python -m raybench.sync LEDGER...

Writes what MLflow lacks and nothing twice; an empty server is filled from the ledger alone.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("sync")

from rich.console import Console

from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.ledger.lock import sweep_lock
from raybench.ledger.reading import ledger_files, read_ledger
from raybench.redaction import without_secrets
from raybench.stores.storage import to_path


def main(argv: list[str]) -> int:
    """Write the sweeps of ledgers to MLflow. Returns 0; raises UserError for what is no ledger or no willing MLflow."""
    arguments = parse_arguments("sync", argv)
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
