"""An environment for arms with versions of their own, made by Ray: once a node, over the base environment.

Ray installs into a virtual environment that sees all packages of the base environment, so that only what differs is
installed. It keeps what it made for as long as it runs, and the installer keeps its downloads beyond that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.declare.packages import is_version, requirement
from raybench.declare.plan import content_hash
from raybench.redaction import without_secrets
from raybench.text import one_line

_SETUP_SECONDS = 1800  # a checkout may have to be built
_LONGEST_REASON = 400  # characters of what an installer said
# What these need is not in the base environment, or in another version of it.
_WITH_DEPENDENCIES = {"torch", "transformers", "torchvision", "timm"}


def runtime_env(packages: Mapping[str, str]) -> dict[str, Any]:
    """The part of Ray's runtime environment that installs an arm's packages; empty where it asks for none."""
    if not packages:
        return {}
    options = ["--no-build-isolation"]
    if not _WITH_DEPENDENCIES & set(packages):
        options.append("--no-deps")  # those of the base environment
    wanted = [requirement(name, version) for name, version in packages.items()]
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


def environment_problem(packages: Mapping[str, str], node_ids: Sequence[str]) -> str:
    """Make the environment on each of these nodes, on one that Ray picks where none is given, before anything is timed.

    Returns why it cannot be made, or what is in it instead; empty where it is there as asked for.
    """
    placed = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in dict.fromkeys(node_ids)]
    asked = [
        ray.remote(_versions)
        .options(num_cpus=0, max_retries=0, runtime_env=runtime_env(packages), scheduling_strategy=strategy)
        .remote(list(packages))
        for strategy in placed or ["DEFAULT"]
    ]
    wanted = ", ".join(f"{name} {version}" for name, version in packages.items())
    try:
        answers = ray.get(asked)
    except RuntimeEnvSetupError as error:
        return f"no environment with {wanted}: {_installers_words(str(error))}"
    except RayError as error:
        return f"no environment with {wanted}: {one_line(without_secrets(str(error)))[:_LONGEST_REASON]}"
    for found in answers:
        for name, version in packages.items():
            if is_version(version) and found[name] != version:
                return f"an environment with {wanted} was asked for, and {name} {found[name]} is in it"
    return ""


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in names}


def _installers_words(text: str) -> str:
    """What an installer said of its failure, below Ray's own words."""
    lines = [line.strip(" ×╰─▶│├") for line in text.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if "No solution" in line or line.lower().startswith("error")), -3)
    return one_line(without_secrets(" ".join(lines[start:])))[:_LONGEST_REASON]
