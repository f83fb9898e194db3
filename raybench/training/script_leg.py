"""A leg whose arm is a script: runs the command on every node of the trial, then reads the steps it recorded.

The trial's own workers sleep meanwhile. The first rank of each node starts the command through a process that leaves
nothing of it behind (`command`). The script records its steps with `raybench.steps`. If it does not, the whole
command's seconds are the measurement, and the fact `timed` says so.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raybench import steps
from raybench.declare.arms import ScriptArm
from raybench.declare.plan import Leg, Trial
from raybench.declare.script import Place, folder_of, search_path, words
from raybench.errors import FailureKind
from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.redaction import without_secrets
from raybench.statistics.steady import steady_from_step
from raybench.text import counted
from raybench.training.command import Ended, Request, asked, signal_name
from raybench.training.node.sampling import Telemetry
from raybench.training.ranks import Ranks

WHOLE_COMMAND: Final = "the whole command"
OWN_STEPS: Final = "its own steps"
# Facts that readers want about any arm, with the words for a caveat.
_WANTED: Final = {
    "num_parameters": "parameter count", "initial_weights": "initial weights", "first_batch": "data",
    "global_batch": "batch size", "workers": "number of ranks", "optimizer": "optimizer", "autocast": "autocast",
    "parameter_dtype": "parameter type", "first_loss": "first loss",
}  # fmt: skip
# Variables of the trial's own processes; the command sets its own.
_OURS = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|NODE_RANK|GROUP_RANK|ROLE_.*|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_.*"
    r"|RAY_.*|TUNE_.*|SPT_NOENV)"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemoryError|\bMemoryError\b|can't allocate memory|bad_alloc", re.I)
_RANK = re.compile(r"^(\[\w+\d+\]: ?)+")  # torchrun's prefix
_ERROR = re.compile(r"[\w.]*(Error|Exception|Exit)\b|.*: error: |.*can't open file |terminate called |Signal \d+ ")
# Errors of the launchers (torchrun, Accelerate, DeepSpeed) about a failed process, below the process's own error.
_OF_A_LAUNCHER = re.compile(r"torch\.distributed\.elastic\.|subprocess\.CalledProcessError")
_GOES_ON = re.compile(r"\d+ validation errors? for ")  # pydantic's, with the field and the reason in the next two lines
_MOST_STEPS = 10_000_000
_LONGEST = 2000  # characters of a message


@dataclass(frozen=True)
class _Node:
    """The command's result on one node."""

    name: str
    ended: Ended
    reports: list[dict[str, Any]]  # one per process that recorded steps
    unreadable: str = ""


def run_script(trial: Trial, leg: Leg, ranks: Ranks, telemetry: Telemetry) -> Outcome:
    """Run a leg's command on each node; every rank returns the same outcome."""
    assert isinstance(leg.arm, ScriptArm)
    started_at = time.time()
    telemetry.begin_leg()
    leads = int(os.environ.get("LOCAL_RANK", ranks.rank)) == 0
    where = ranks.gather((leads, socket.gethostname(), _address(), _free_port(), _visible_gpus()))
    nodes = [index for index, (is_first, *_) in enumerate(where) if is_first]
    main = where[nodes[0]]
    mine = None
    with telemetry.window():
        if leads:
            place = Place(trial.seed, nodes.index(ranks.rank), main[2] if len(nodes) > 1 else "127.0.0.1", main[3])
            gpus = [gpu for _, host, *_, seen in where if host == socket.gethostname() for gpu in seen]
            mine = _run_here(trial, leg, leg.arm, place, list(dict.fromkeys(gpus)))
        found: list[_Node] = [node for node in ranks.gather(mine) if node is not None]
    reading = telemetry.gather()
    outcome = _outcome(trial, leg, found, started_at)
    if isinstance(outcome, Failure):
        return outcome
    return Measurement(
        **outcome,
        started_at=started_at,
        telemetry=reading.nodes,
        energy_joules=reading.energy_joules,
        foreign_cpu_cores=reading.foreign_cpu_cores,
        contaminated=reading.contaminated,
        missing_instruments=reading.missing or [],
    )


def _run_here(trial: Trial, leg: Leg, arm: ScriptArm, place: Place, gpus: Sequence[str]) -> _Node:
    """Run the command on this node and read its processes' records."""
    folder = tempfile.mkdtemp(prefix="raybench-steps-")
    try:
        environment = {key: value for key, value in os.environ.items() if not _OURS.fullmatch(key)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        environment |= arm.environment
        environment = {key: value for key, value in environment.items() if value or key not in arm.environment}
        environment |= {
            "PATH": search_path(environment),
            steps.FOLDER: folder,
            steps.STARTED: str(time.time()),
            "RAYBENCH_SEED": str(place.seed),
        }
        protocol = trial.protocol
        request = Request(
            words(arm, leg.setting, protocol, place), environment, str(folder_of(arm)), trial.leg_timeout_seconds
        )
        ended = asked(request)
        reports, unreadable = _read(Path(folder))
        return _Node(socket.gethostname(), ended, reports, unreadable)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The reports in a folder, and why one cannot be read; the script may have written anything."""
    reports = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_bytes())
            seconds = report["step_seconds"]
            right = isinstance(seconds, list) and len(seconds) <= _MOST_STEPS
            if not right or not all(isinstance(one, int | float) and 0 <= one < math.inf for one in seconds):
                raise ValueError("step_seconds are not seconds")
            if not isinstance(report["facts"], dict) or not isinstance(report["losses"], list):
                raise ValueError("facts or losses are not what raybench.steps writes")
            for key in ("setup_seconds", "peak_host_bytes"):
                report[key] = max(0.0, float(report.get(key) or 0))
            reports.append(report)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            return [], f"{path.name}: {type(error).__name__}: {error}"
    return sorted(reports, key=lambda report: str(report.get("rank"))), ""


def _outcome(trial: Trial, leg: Leg, nodes: Sequence[_Node], started_at: float) -> dict[str, Any] | Failure:
    """The fields of a measurement, or the failure."""
    for node in sorted(nodes, key=lambda node: node.ended.timed_out):
        if (failed := _failed(node.ended, trial.leg_timeout_seconds)) is not None:
            kind, message = failed
            where = f"{node.name}: " if len(nodes) > 1 else ""
            recorded = max((len(report["step_seconds"]) for report in node.reports), default=0)
            after = f"; it had recorded {counted(recorded, 'step')}" if recorded else ""
            return Failure(kind=kind, message=where + message + after, started_at=started_at)
        if node.unreadable:
            message = f"what the script recorded cannot be read: {node.unreadable:.300}"
            return Failure(kind="error", message=message, started_at=started_at)
    reports = [report for node in nodes for report in node.reports if report["step_seconds"]]
    ended = [node.ended for node in nodes]
    if not reports:
        return _whole_command(leg, ended)
    warmup, number = trial.protocol.warmup_steps, min(len(report["step_seconds"]) for report in reports)
    if number < warmup + 2:
        message = (
            f"the script recorded {number} steps: with {warmup} warm-up steps {warmup + 2} are the least; let it run "
            "more ({total_steps} in its command), or take fewer protocol.warmup_steps"
        )
        return Failure(kind="invalid_config", message=message, started_at=started_at)
    losses = _losses(reports, number)
    wrong = next((index for index, loss in losses.items() if not math.isfinite(loss)), None)
    if wrong is not None:
        return Failure(kind="not_finite", message=f"the loss of step {wrong} is {losses[wrong]}", started_at=started_at)
    return _measured(leg, ended, reports, losses, warmup, number)


def _failed(ended: Ended, limit: float) -> tuple[FailureKind, str] | None:
    """The kind of failure and its message; None where the command succeeded."""
    said = _last_words(ended.tail)
    if ended.problem:
        return "invalid_config", f"the command cannot be started: {ended.problem:.500}"
    if ended.timed_out:
        return (
            "timeout",
            f"the command did not end within {limit:g} s and was killed with all of its child processes{said}",
        )
    if ended.exit_code == 0:
        return None
    assert ended.exit_code is not None
    how = f"exit code {ended.exit_code}" if ended.exit_code > 0 else signal_name(-ended.exit_code)
    if ended.oom_kills:
        return "out_of_memory", f"the command ended with {how}; the kernel's OOM killer had killed a process{said}"
    if _OUT_OF_MEMORY.search(ended.tail):
        return "out_of_memory", f"the command ended with {how}{said}"
    return ("error" if ended.exit_code > 0 else "crashed"), f"the command ended with {how}{said}"


def _last_words(tail: str) -> str:
    """The most telling line of an output: the last that names an error, else the last; "" where there is none."""
    lines = [
        _RANK.sub("", "".join(c for c in line if c.isprintable() and c != "\ufffd").strip()).strip()
        for line in without_secrets(tail).splitlines()
    ]
    said = [line.removeprefix("traceback : ") for line in lines if line]
    errors = [number for number, line in enumerate(said) if _ERROR.match(line)]
    causes = [number for number in errors if not _OF_A_LAUNCHER.match(said[number])]
    if not said:
        return "; it printed nothing"
    last = (causes or errors or [-1])[-1]
    more = 2 if _GOES_ON.search(said[last]) else 0
    return f": {' '.join(said[last:][: 1 + more])[:_LONGEST]}"


def _whole_command(leg: Leg, ended: Iterable[Ended]) -> dict[str, Any]:
    seconds = max(one.seconds for one in ended)
    return {
        "step_seconds": [seconds],
        "warmup_steps": 0,
        "data_seconds": None,
        "samples_per_step": leg.setting.global_batch,
        "peak_host_bytes": max(one.peak_bytes for one in ended),
        "setup_seconds": 0.0,
        "train_seconds": seconds,
        "eval_seconds": 0.0,
        "first_loss": None,
        "final_loss": None,
        "facts": {"timed": WHOLE_COMMAND, "informative": _informative(ended, {})},
    }


def _measured(
    leg: Leg,
    ended: Sequence[Ended],
    reports: Sequence[Mapping[str, Any]],
    losses: Mapping[int, float],
    warmup: int,
    number: int,
) -> dict[str, Any]:
    slowest = [max(report["step_seconds"][step] for report in reports) for step in range(number)]
    first = reports[0]
    facts = {key: value for key, value in first["facts"].items() if key not in ("informative", "timed")}
    if 0 in losses:
        facts["first_loss"] = losses[0]
    own = first["facts"].get("informative") or {}
    device = [report["peak_device_bytes"] for report in reports if isinstance(report.get("peak_device_bytes"), int)]
    samples = first.get("samples_per_step")
    complete = len(losses) == number
    return {
        "step_seconds": slowest,
        "warmup_steps": warmup,
        "data_seconds": None,
        "samples_per_step": samples if isinstance(samples, int) and 0 < samples < 2**31 else leg.setting.global_batch,
        "peak_device_bytes": max(device, default=None),
        "peak_host_bytes": max(int(report["peak_host_bytes"]) for report in reports),
        "setup_seconds": max(report["setup_seconds"] for report in reports),
        "train_seconds": sum(slowest),
        "eval_seconds": 0.0,
        "first_loss": losses.get(0),
        "final_loss": losses[max(losses)] if losses else None,
        "step_losses": [losses[step] for step in range(number)] if complete else None,
        "steady_from_step": steady_from_step(slowest),
        "facts": {**facts, "timed": OWN_STEPS, "informative": {**own, **_informative(ended, facts)}},
    }


def _losses(reports: Sequence[Mapping[str, Any]], number: int) -> dict[int, float]:
    """Losses by step, the mean over the ranks that know them. Keys that are no step numbers are skipped."""
    by_step: dict[int, list[float]] = {}
    for report in reports:
        for pair in report["losses"]:
            with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
                step, loss = int(pair[0]), float(pair[1])
                if 0 <= step < number:
                    by_step.setdefault(step, []).append(loss)
    return {step: sum(losses) / len(losses) for step, losses in sorted(by_step.items())}


def _informative(ended: Iterable[Ended], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "left_behind": sum(one.left_behind for one in ended),
        "not_known": [name for fact, name in _WANTED.items() if fact not in facts],
    }


def _visible_gpus() -> list[str]:
    return [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]


def _address() -> str:
    """This node's address as seen by other nodes."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
