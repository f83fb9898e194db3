"""An environment for arms with versions of their own, made by Ray: once a node, over the base environment.

Ray installs into a virtual environment that sees all packages of the base environment, so that only what differs is
installed. It keeps what it made for as long as it runs, and the installer keeps its downloads beyond that.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.declare.packages import is_version, local_contents, requirement
from raybench.declare.plan import content_hash
from raybench.redaction import without_secrets
from raybench.text import one_line

_SETUP_SECONDS = 1800  # a checkout may have to be built
_LONGEST_REASON = 400  # characters of what an installer said
_WORKER = "raybench.training.worker"  # what every leg runs; an old torch has not all that it imports
_IMPORTED = {"deepspeed", "torch", "transformers"}  # before a leg; torchvision needs help beside a torch without CUDA
# What these need is not in the base environment, or in another version of it.
_WITH_DEPENDENCIES = {"torch", "transformers", "torchvision", "timm"}


def runtime_env(packages: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The part of Ray's runtime environment that installs an arm's packages; empty where it asks for none.

    `folder`: where the sweep was started, from which relative paths are taken. Raises ValueError where one of them
    leads nowhere.
    """
    if not packages:
        return {}
    options = ["--no-build-isolation"]
    if not _WITH_DEPENDENCIES & set(packages):
        options.append("--no-deps")  # those of the base environment
    for name, content in local_contents(packages, folder).items():
        # The installer would take the wheel that it built of a checkout before it was edited, and Ray the environment.
        options += ["--refresh-package", name, f"--config-setting=raybench={content}"]
    wanted = [requirement(name, version, folder) for name, version in packages.items()]
    return {
        "config": {"setup_timeout_seconds": _SETUP_SECONDS},
        "uv": {"packages": wanted, "uv_check": False, "uv_pip_install_options": options},
    }


def own_operators(packages: Mapping[str, str]) -> dict[str, str]:
    """A folder of its own for an environment's compiled operators: two that share one rebuild each other's."""
    if not packages:
        return {}
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or str(Path.home() / ".cache" / "torch_extensions")
    return {"TORCH_EXTENSIONS_DIR": f"{root}/raybench-{content_hash(dict(packages))}"}


def environment_problem(packages: Mapping[str, str], node_ids: Sequence[str], folder: Path) -> str:
    """Make the environment on each of these nodes, on one that Ray picks where none is given, before anything is timed.

    Returns why it cannot be made, what is in it instead, or why it cannot be imported; empty where it is there as asked
    for. A node that had it is not asked again by this process. `folder` as in `runtime_env`.
    """
    try:
        environment = runtime_env(packages, folder)
    except ValueError as error:
        return str(error)
    name = content_hash(environment)
    asked_nodes = [node_id for node_id in dict.fromkeys(node_ids) if (name, node_id) not in _made]
    if node_ids and not asked_nodes:
        return ""
    placed = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in asked_nodes] or ["DEFAULT"]
    wanted = ", ".join(f"{name} {version}" for name, version in packages.items())
    try:
        if why := next(filter(None, _on_each(placed, _refusal, environment["uv"])), ""):
            return f"no environment with {wanted}: {_installers_words(why)}"
        answers = _on_each(placed, _look, list(packages), runtime_env=environment)
    except RuntimeEnvSetupError as error:
        return f"no environment with {wanted}: {_installers_words(str(error))}"
    except RayError as error:
        return f"no environment with {wanted}: {one_line(without_secrets(str(error)))[:_LONGEST_REASON]}"
    for versions, why in answers:
        if why:
            return f"the environment with {wanted} cannot be used: {without_secrets(why)[:_LONGEST_REASON]}"
        for package, version in packages.items():
            if is_version(version) and versions[package] != version:
                return f"an environment with {wanted} was asked for, and {package} {versions[package]} is in it"
    _made.update((name, node_id) for node_id in asked_nodes)
    return ""


def _on_each(placed: Sequence[Any], call: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """What a call answers on each of these nodes, where it waits for no CPU. Raises RayError."""
    remote = ray.remote(call)
    asked = [
        remote.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy, **options).remote(*arguments)
        for strategy in placed
    ]
    return list(ray.get(asked))


def _refusal(uv: Mapping[str, Any]) -> str:
    """What the installer says against these packages, empty where nothing: within seconds, where Ray would copy the
    base environment first, and would do so three times before it gives up."""
    if importlib.util.find_spec("uv") is None:
        return ""
    asked = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--python", sys.executable]
    done = subprocess.run(
        [*asked, *uv["uv_pip_install_options"], *uv["packages"]], capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""


_made: set[tuple[str, str]] = set()  # (environment, Ray's id of a node) that this process saw to be as asked for


def _look(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """In the environment: its versions, and why one of them cannot be imported; empty where they can."""
    versions = {name: metadata.version(name) for name in names}
    for name in (*sorted(_IMPORTED & set(names)), _WORKER):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a library's import may raise
            return versions, f"import {name}: {type(error).__name__}: {one_line(str(error))}"
    return versions, ""


def _installers_words(text: str) -> str:
    """What an installer said of its failure, below Ray's own words."""
    lines = [line.strip(" ×╰─▶│├") for line in text.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if "No solution" in line or line.lower().startswith("error")), -3)
    return one_line(without_secrets(" ".join(lines[start:])))[:_LONGEST_REASON]
