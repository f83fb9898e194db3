"""A script as an arm: the words of its command, with `{names}` replaced by values.

No shell reads a command: it is split into words as a shell would. `{name}` is a field of the setting, or something
that only the run knows (`Place`, the number of steps). Other braces stay unchanged.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.declare.arms import ScriptArm
from raybench.declare.protocol import Protocol, Throughput, steps_or
from raybench.declare.setting import Setting
from raybench.machine.variables import WORKING_TREE
from raybench.text import dotted, suggest

_SCRIPT = re.compile(r"[\w./~+-]+\.py")
_NAME = re.compile(r"(?<!\$)\{([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)\}")


@dataclass(frozen=True)
class Place:
    """What a command is told about where it runs, besides its setting."""

    seed: int = 0
    node_rank: int = 0
    main_address: str = "127.0.0.1"
    main_port: int = 29500


def words(arm: ScriptArm, setting: Setting, protocol: Protocol, place: Place) -> list[str]:
    """The command's words. Raises ValueError for quotes that do not close and for an unknown `{name}`."""
    values = _values(setting, protocol, place)

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"unknown {{{match[1]}}}; {suggest(match[1], values, most=20)}")
        return str(values[match[1]])

    return [_NAME.sub(value, part) for part in _parts(arm)]


def _parts(arm: ScriptArm) -> list[str]:
    """The command's words as written. Raises ValueError for quotes that do not close."""
    return shlex.split(arm.command) if isinstance(arm.command, str) else list(arm.command)


def _values(setting: Setting, protocol: Protocol, place: Place) -> dict[str, Any]:
    values = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in dotted(setting.model_dump(mode="json"))
        if isinstance(value, str | int | float)
    }
    if setting.batch_size != "max":
        values["micro_batch"] = setting.micro_batch
    values["workers_per_node"] = setting.workers_per_node
    steps = steps_or(protocol, 0)
    return values | {
        "seed": place.seed,
        "node_rank": place.node_rank,
        "main_address": place.main_address,
        "main_port": place.main_port,
        "warmup_steps": protocol.warmup_steps,
        "steps": steps,
        "total_steps": protocol.warmup_steps + steps,
        "lr": setting.optimizer.lr,
    }


def folder_of(arm: ScriptArm) -> Path:
    """The folder in which the command runs; a relative one starts where the sweep was started."""
    return Path(os.environ.get(WORKING_TREE, "")).absolute() / Path(arm.folder).expanduser()


def files_named(arm: ScriptArm) -> list[Path]:
    """The files that the command names, as a script or its config: what is measured depends on them."""
    named = [folder_of(arm) / part.rpartition("=")[2] for part in _parts(arm)[1:] if "{" not in part]
    return [path for path in dict.fromkeys(named) if os.path.isfile(path)]


def search_path(environment: Mapping[str, str]) -> str:
    """PATH with this Python's folder in it, so that `python` and `torchrun` of a venv that is not activated are
    found."""
    path = environment.get("PATH", os.defpath)
    own = str(Path(sys.executable).parent)
    return path if own in path.split(os.pathsep) else own + os.pathsep + path


def problem(arm: ScriptArm, setting: Setting, protocol: Protocol, *, here: bool) -> str:
    """Why a command cannot run in this setting; empty where it can. `here`: whether this machine runs it."""
    try:
        parts = words(arm, setting, protocol, Place())
    except ValueError as error:
        return f"command: {error}"
    if not parts or not parts[0]:
        return "command: it is empty; write what to run, as in: torchrun --nproc-per-node {workers} train.py"
    if any("\0" in part for part in parts):
        return "command: it contains a null byte"
    if setting.batch_size == "max":
        return "a script cannot be asked for its largest batch; write setting.batch_size"
    if not isinstance(protocol, Throughput) or protocol.evaluate:
        return "a script records steps alone: take protocol kind throughput, without evaluate"
    if protocol.steps == "auto":
        return "a script decides itself how many steps it takes: write protocol.steps as a number"
    if not here:
        return ""
    folder = folder_of(arm)
    if not folder.is_dir():
        return f"folder: {folder} is no folder here"
    program = str(folder / parts[0]) if os.sep in parts[0] else parts[0]
    if shutil.which(program, path=search_path({**os.environ, **arm.environment})) is None:
        return f"command: program {parts[0]!r:.80} was not found"
    script = next((part for part in parts[1:] if _SCRIPT.fullmatch(part)), None)
    if script is not None and not os.path.isfile(folder / script):
        return f"command: no file {script} in {folder}"
    return ""
