"""Whether a delay and an error that are planted in DeepSpeed are found, and DeepSpeed as it is is not accused.

    python benchmarks/planted.py [delay=0.05] [error=0.01] [margin=0.01] [repeats=16] [space=versions] [size=small]
                                 [out=FOLDER]

Makes three checkouts of the installed DeepSpeed: as it is; one whose every `step` sleeps a share of `delay` of the time
since the last one; one in which the gradient of a model's first parameter is off by a share of `error`. Runs
`raybench.versions` with them and prints its table. Returns 0 where the delay is found slower and trains the same, the
error trains differently, and 1 otherwise. delay=0 or error=0 leaves that checkout out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raybench.cli import parse_script, run_command
from raybench.errors import NothingMeasured

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "deepspeed"
version = "{version}"
[tool.setuptools.packages.find]
include = ["deepspeed*"]
[tool.setuptools.package-data]
"*" = ["*", "**/*"]
"""

# Appended to deepspeed/__init__.py.
DELAY = """
import time as _time
_step, _last = DeepSpeedEngine.step, {{}}
def _slow_step(self, *arguments, **named):
    now = _time.perf_counter()
    _time.sleep({share} * (now - _last.get(id(self), now)))
    result = _step(self, *arguments, **named)
    _last[id(self)] = _time.perf_counter()
    return result
DeepSpeedEngine.step = _slow_step
"""
ERROR = """
_initialize = initialize
def initialize(*arguments, model=None, **named):
    next(iter(model.parameters())).register_hook(lambda gradient: {factor} * gradient)
    return _initialize(*arguments, model=model, **named)
"""


def main(argv: list[str]) -> int:
    """Run it. Returns 0 where all that was planted was found."""
    defaults = {
        "delay": 0.05, "error": 0.01, "margin": 0.01, "repeats": 16, "space": "versions", "size": "small", "out": "",
    }  # fmt: skip
    values = parse_script(__doc__ or "", defaults, argv, takes_space=True)
    folder = Path(values["out"] or tempfile.mkdtemp(prefix="planted-")).absolute()
    planted = {"plain": ""}
    if values["delay"]:
        planted["slow"] = DELAY.format(share=values["delay"])
    if values["error"]:
        planted["wrong"] = ERROR.format(factor=1 + values["error"])
    checkouts = {name: checkout(folder / name, code) for name, code in planted.items()}
    asked = ",".join(map(str, checkouts.values()))
    overrides = {key: value for key, value in values.items() if key not in ("delay", "error", "margin", "out")}
    command = [
        sys.executable, "-m", "raybench.versions", f"deepspeed={asked}", f"question.margin={values['margin']}",
        *(f"{key}={value}" for key, value in overrides.items()), "sweep=planted", f"results={folder / 'ledger'}",
        "--json",
    ]  # fmt: skip
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not answer.stdout:  # it has said why
        raise NothingMeasured("the versions were not compared")
    found = {Path(one["version"].split()[-1]).name: one for one in json.loads(answer.stdout)["versions"]}
    for name, one in found.items():
        against = one.get("against_first", {})
        print(
            f"{name:<8}{against.get('verdict', '-'):<12}{against.get('speedup') or float('nan'):<8.3f}{one['training']}"
        )
    return 0 if all(as_planted(name, one) for name, one in found.items()) else 1


def checkout(folder: Path, code: str) -> Path:
    """A folder that installs as DeepSpeed, with `code` at the end of its package's first module."""
    if not folder.exists():
        spec = find_spec("deepspeed")
        assert spec is not None
        assert spec.origin is not None
        package = folder / "deepspeed"
        shutil.copytree(Path(spec.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        with (package / "__init__.py").open("a", encoding="utf-8") as module:
            module.write(code)
        version = f"{metadata.version('deepspeed').partition('+')[0]}+{folder.name}"
        (folder / "pyproject.toml").write_text(PROJECT.format(version=version), encoding="utf-8")
    return folder


def as_planted(name: str, one: dict[str, Any]) -> bool:
    """Whether what was found of a checkout is what was planted in it."""
    if name == "wrong":
        return str(one["training"]).startswith("differs")
    slower = one.get("against_first", {}).get("verdict") == "hurts"
    return one["training"] == "same" and slower == (name == "slow")


if __name__ == "__main__":
    run_command(main)
