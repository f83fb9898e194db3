"""Tries models and tasks before any leg uses them, and reports each problem in one line.

    python -m raybench.training.tasks.check < SETTINGS.json

Reads a list of settings and prints a list with one line for each, empty where nothing is wrong. The driver uses it on
the user's own code before Ray starts.
"""

from __future__ import annotations

import json
import sys

import torch.distributed as dist

from raybench.declare.setting import Setting
from raybench.errors import BadData, InvalidConfig
from raybench.training.tasks import build_task


def problem_of(setting: Setting) -> str:
    """What is wrong with a setting's task or model; empty where nothing is."""
    own = setting.task if ":" in setting.task else setting.model
    try:
        return build_task(setting).problem()
    except (InvalidConfig, BadData) as error:
        return str(error)
    except Exception as error:  # the user's code may raise anything
        return f"{own}: {type(error).__name__}: {' '.join(str(error).split()):.500}"


def main() -> int:
    """Answer for every setting on standard input. Returns 0."""
    settings = [Setting.model_validate(values) for values in json.load(sys.stdin)]
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)  # legs have a process group too
    print()
    print(json.dumps([problem_of(setting) for setting in settings]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
