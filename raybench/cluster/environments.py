"""Environments for arms with their own package versions, made by Ray once per node on top of the base environment.

Ray installs into a virtual environment that sees all packages of the base environment, so only the differences are
installed. Ray keeps an environment as long as Ray runs; the installer keeps its downloads for longer.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.cluster.nodes import look
from raybench.cluster.placement import Cluster, need_of
from raybench.declare.packages import is_version, local_contents, requirement
from raybench.declare.plan import Plan, Trial, content_hash
from raybench.redaction import without_secrets
from raybench.text import one_line

_SETUP_SECONDS = 1800  # a checkout may have to be built
_LONGEST_REASON = 400  # characters of the installer's output
_WORKER = "raybench.training.worker"  # every leg imports it; an old torch may lack something that it needs
_IMPORTED = {"deepspeed", "torch", "transformers"}  # before a leg; torchvision needs help beside a torch without CUDA
# These packages need others that the base environment lacks or has in another version.
_WITH_DEPENDENCIES = {"torch", "transformers", "torchvision", "timm"}

Made = frozenset[tuple[str, str]]  # pairs of an environment and the id of a node that has it
_NONE: Made = frozenset()


def runtime_env(packages: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The part of Ray's runtime environment that installs an arm's packages; empty where the arm asks for none.

    `folder`: where the sweep was started; relative paths start there. Raises ValueError where a path does not exist.
    """
    if not packages:
        return {}
    options = ["--no-build-isolation"]
    if not _WITH_DEPENDENCIES & set(packages):
        options.append("--no-deps")  # dependencies come from the base environment
    for name, content in local_contents(packages, folder).items():
        # Otherwise a checkout edited since its last build would be served from uv's wheel cache or Ray's environment.
        options += ["--refresh-package", name, f"--config-setting=raybench={content}"]
    wanted = [requirement(name, version, folder) for name, version in packages.items()]
    return {
        "config": {"setup_timeout_seconds": _SETUP_SECONDS},
        "uv": {"packages": wanted, "uv_check": False, "uv_pip_install_options": options},
    }


def own_operators(packages: Mapping[str, str]) -> dict[str, str]:
    """A separate folder for an environment's compiled operators; environments that share one rebuild each other's."""
    if not packages:
        return {}
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or str(Path.home() / ".cache" / "torch_extensions")
    return {"TORCH_EXTENSIONS_DIR": f"{root}/raybench-{content_hash(dict(packages))}"}


def make_environments(
    plan: Plan, missing: Collection[str], cluster: Cluster, folder: Path, tell: Callable[[str], None]
) -> Made:
    """Make the environments of the plan's `missing` legs (by leg_id) on every node that may run them, before the first
    leg. Returns those that were made.

    `tell` gets a line for each environment, and one more for each that cannot be had. Its legs fail by themselves;
    nodes that join later get theirs from the trials placed there.
    """
    asking: dict[str, tuple[Mapping[str, str], list[Trial]]] = {}
    for trial, leg in plan.legs():
        if leg.arm.packages and leg.leg_id in missing:
            asking.setdefault(content_hash(dict(leg.arm.packages)), (leg.arm.packages, []))[1].append(trial)
    nodes = look() if asking else []
    for packages, trials in asking.values():
        needs = {need_of(trial, cluster) for trial in trials}
        node_ids = [node.node_id for node in nodes if any(need.fits(node.total) for need in needs)]
        if not node_ids:
            continue
        tell(without_secrets(f"making an environment with {_in_words(packages)} ..."))
        if why := environment_problem(packages, node_ids, folder):
            tell(without_secrets(f"{why.removesuffix('.')}; its legs fail as unsupported, the others run"))
    return frozenset(_made)


def environment_problem(packages: Mapping[str, str], node_ids: Sequence[str], folder: Path, made: Made = _NONE) -> str:
    """Make the environment on each of these nodes (on one that Ray picks, if none are given), before anything is timed.

    Returns why it cannot be made or imported, or which other versions it has; empty where it is as asked for. Nodes
    that had the environment, by `made` or by an earlier call, are not asked again. `folder` as in `runtime_env`.
    """
    if not packages:
        return ""
    try:
        environment = runtime_env(packages, folder)
    except ValueError as error:
        return str(error)
    name = content_hash(environment)
    known = made | _made
    asked_nodes = [node_id for node_id in dict.fromkeys(node_ids) if (name, node_id) not in known]
    if node_ids and not asked_nodes:
        return ""
    placed = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in asked_nodes] or ["DEFAULT"]
    wanted = _in_words(packages)
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
                return f"the environment with {wanted} contains {package} {versions[package]} instead"
    _made.update((name, node_id) for node_id in asked_nodes)
    return ""


def _in_words(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _on_each(placed: Sequence[Any], call: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """A call's answers from each of these nodes; the tasks need no CPU. Raises RayError."""
    remote = ray.remote(call)
    asked = [
        remote.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy, **options).remote(*arguments)
        for strategy in placed
    ]
    return list(ray.get(asked))


def _refusal(uv: Mapping[str, Any]) -> str:
    """Why the installer rejects these packages; empty where it does not. This takes seconds, while Ray would copy the
    base environment first, and would try three times."""
    if importlib.util.find_spec("uv") is None:
        return ""
    asked = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--python", sys.executable]
    done = subprocess.run(
        [*asked, *uv["uv_pip_install_options"], *uv["packages"]], capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""


_made: set[tuple[str, str]] = set()  # that this process has checked


def _look(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Runs in the environment: its versions, and why one of them cannot be imported; empty where all can."""
    versions = {name: metadata.version(name) for name in names}
    for name in (*sorted(_IMPORTED & set(names)), _WORKER):
        try:
            importlib.import_module(name)
        except Exception as error:  # a library's import may raise anything
            return versions, f"import {name}: {type(error).__name__}: {one_line(str(error))}"
    return versions, ""


def _installers_words(text: str) -> str:
    """The installer's error output, without Ray's message around it."""
    lines = [line.strip(" ×╰─▶│├") for line in text.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if "No solution" in line or line.lower().startswith("error")), -3)
    return one_line(without_secrets(" ".join(lines[start:])))[:_LONGEST_REASON]
