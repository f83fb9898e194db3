"""The versions that every process of a sweep must share. Uses only `importlib.metadata`: nothing heavy is imported.

For raybench itself the content counts, not only the number: a working tree that was changed on one node is another
version.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGES = ("ray", "torch", "deepspeed")


@cache
def own_versions() -> dict[str, str | None]:
    """This process's versions by name: Python, raybench with a digest of its source, and the training libraries."""
    return {
        "python": platform.python_version(),
        "raybench": f"{_public('raybench')} ({source_digest(Path(__file__).parents[1])})",
        **{package: _public(package) for package in _PACKAGES},
    }


def source_digest(folder: Path) -> str:
    """8 hexadecimal digits that identify the content of the Python files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def version_differences(found: Mapping[str, str | None], expected: Mapping[str, str | None]) -> str:
    """The differences, as `torch 2.12.0 and not 2.13.0`, where `expected` is the sweep's; empty if there are none."""
    differing = [
        f"{name} {found.get(name) or 'is missing'} and not {version}"
        for name, version in expected.items()
        if found.get(name) != version
    ]
    return "; ".join(differing)


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _public(package: str) -> str | None:
    """The public version: a node without GPUs may have another build of the same torch."""
    version = installed_version(package)
    return None if version is None else version.partition("+")[0]
