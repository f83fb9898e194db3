"""Two commands against each other: which is faster, and am I sure?

python -m raybench.pair [repeats=5] [key=value ...] [--json] -- COMMAND_A -- COMMAND_B
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("pair")

import contextlib
import json
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from raybench.cli import parse_arguments, run_command
from raybench.cluster.placement import this_machine
from raybench.declare.plan import plan_from_arguments
from raybench.errors import Interrupted, NothingMeasured, UserError
from raybench.ledger.dataset import Ledger
from raybench.redaction import without_secrets
from raybench.stores.storage import to_path
from raybench.sweep import Request, run_sweep, seconds_to_wait

_DASHES = "--"


def main(argv: list[str]) -> int:
    """Measure both commands and say which is faster. Returns 0; raises as a sweep does."""
    own, commands = _taken_apart(argv)
    arguments = parse_arguments("pair", own)
    values = dict(arguments.values)
    results = to_path(values.pop("results", "mlruns/ledger"))
    wait_seconds = seconds_to_wait(values.pop("wait", "20"))
    as_json = "json" in arguments.flags
    with tempfile.TemporaryDirectory(prefix="raybench-pair-") as folder:
        file = Path(folder) / "pair.yaml"
        file.write_text(yaml.safe_dump(_space(commands, values), sort_keys=False), encoding="utf-8")
        try:
            plan, space = plan_from_arguments({"space": str(file), **values})
        except UserError as error:
            # Its lines are not the user's.
            raise UserError(re.sub(rf"{re.escape(str(file))}(:\d+)?", "pair", str(error))) from None
    again = without_secrets("python -m raybench.pair " + " ".join(shlex.quote(word) for word in argv))
    request = Request(
        plan,
        space,
        (results / plan.space / plan.sweep).absolute(),
        again,
        "quiet" if as_json else "normal",
        wait_seconds,
    )
    try:
        run_sweep(request, Console(stderr=True, quiet=True) if as_json else Console())
    except (Interrupted, NothingMeasured):
        if as_json:
            with contextlib.suppress(UserError):  # there are no rows
                _print_json(request)
        raise
    if as_json:
        _print_json(request)
    _check_both(request)
    return 0


def _check_both(request: Request) -> None:
    """Raise NothingMeasured where a command has no measured leg."""
    measured = {row["arm"] for row in Ledger(request.folder).rows(["arm", "status"]) if row["status"] == "ok"}
    if lacking := sorted({"A", "B"} - measured):
        raise NothingMeasured(f"every run of {' and of '.join(lacking)} failed, so nothing can be compared")


def _taken_apart(argv: list[str]) -> tuple[list[str], tuple[list[str], list[str]]]:
    """raybench's own words, and those of the two commands. Raises UserError."""
    parts: list[list[str]] = [[]]
    for word in argv:
        if word == _DASHES:
            parts.append([])
        else:
            parts[-1].append(word)
    own, *commands = parts
    if "--help" in own or "-h" in own:
        return own, ([], [])
    if len(commands) != 2:
        raise UserError(
            f"pair compares two commands, each after a --, but {len(commands)} were given: raybench pair "
            "-- python a.py -- python b.py"
        )
    for name, command in zip("AB", commands, strict=True):
        if not command:
            raise UserError(f"command {name} is empty; write what to run behind its --")
    return own, (commands[0], commands[1])


def _space(commands: tuple[list[str], list[str]], values: dict[str, str]) -> dict[str, Any]:
    """A space of the two commands. Removes the values that it uses from `values`; the rest overrides its fields."""
    # As in a shell of their own: the commands choose their threads.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")}
    gpus = int(max((node.get("GPU", 0) for node in this_machine().nodes), default=0))
    arms = {
        name: {"engine": "script", "command": command, "environment": threads}
        for name, command in zip("AB", commands, strict=True)
    }
    protocol = {"warmup_steps": _whole("warmup", values.pop("warmup", "10")), "steps": 100, "rounds": 1}
    return {"setting": {"workers": max(1, gpus)}, "arms": arms, "protocol": protocol, "repeats": 5}


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{key}={text} is not a whole number") from None


def _print_json(request: Request) -> None:
    """Print the analysis as one JSON object on standard output. Raises UserError where there are no rows."""
    from raybench.analysis import analyse

    found = analyse([request.folder]).to_json()
    print(json.dumps(found, allow_nan=False, indent=1))


if __name__ == "__main__":
    run_command(main)
