"""Tries the user's own models and tasks once, in a separate process, before Ray starts."""

from __future__ import annotations

import json
import subprocess
import sys

from raybench.declare.plan import Plan
from raybench.errors import UserError

_SECONDS = 300.0


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
