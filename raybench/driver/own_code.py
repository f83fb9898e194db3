"""The user's own code: models and tasks are tried once, in a separate process, before Ray starts; code that changed
since its legs were measured is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from raybench.declare.arms import ScriptArm
from raybench.declare.catalog import own_model_file
from raybench.declare.plan import Plan
from raybench.declare.script import files_named
from raybench.errors import UserError

_SECONDS = 300.0


def changed_since(plan: Plan, began: Mapping[str, float]) -> list[str]:
    """Files of the user's that are newer than an arm's first leg (`began`, by arm, seconds since the epoch).

    These are scripts, the configs that their commands name, and the files of own models and tasks in this folder.
    """
    found: list[Path] = []
    legs = {(leg.arm_name, leg.setting.model, leg.setting.task): leg for _, leg in plan.legs()}
    for leg in (leg for leg in legs.values() if leg.arm_name in began):
        files = [own_model_file(name) for name in (leg.setting.model, leg.setting.task) if ":" in name]
        if isinstance(leg.arm, ScriptArm):
            files += files_named(leg.arm)
        found += [file for file in files if file.stat().st_mtime > began[leg.arm_name]]
    return [os.path.relpath(file) for file in dict.fromkeys(found)]


def check_own_code(plan: Plan) -> None:
    """Raise UserError where a setting's `module:function` or `module:Class` cannot be built or has the wrong kind.

    Code that cannot be tried here, for example because torch is missing, is checked when its legs run.
    """
    legs = [leg for trial in plan.trials for leg in trial.legs]
    settings = {leg.setting.model_dump_json(): leg.setting for leg in legs}
    own = [setting for setting in settings.values() if ":" in setting.model + setting.task and not setting.download]
    if not own:
        return
    asked = json.dumps([setting.model_dump(mode="json") for setting in own])
    command = [sys.executable, "-m", "raybench.training.tasks.check"]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_SECONDS, check=False)
        problems = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return
    for setting, problem in zip(own, problems, strict=True):
        if problem:
            key = "task" if ":" in setting.task else "model"
            raise UserError(f"setting.{key}: {problem}")
