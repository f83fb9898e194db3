"""An arm's own library versions: valid values of `packages: {deepspeed: 0.18.6}`, and the requirements to install."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

# These run the trial itself, the same for all arms.
_OF_THE_TRIAL = {"ray", "raybench", "python", "pip", "setuptools"}
_NO_SOURCE = {"__pycache__", "build", "dist"}  # also names that begin with a dot, as .git, or end in .egg-info
_REMOTE = re.compile(r"(git\+(https|ssh|file)|https|file)://")


def check_packages(packages: Mapping[str, str]) -> dict[str, str]:
    """The packages with canonical names. Raises ValueError for what no installer accepts."""
    checked = {}
    for name, wanted in packages.items():
        try:
            canonical = canonicalize_name(name, validate=True)
        except ValueError:
            raise ValueError(f"{name!r} is not the name of a package") from None
        if canonical in _OF_THE_TRIAL:
            raise ValueError(f"{name} runs the trial itself, the same for all of its arms; take it out")
        requirement(canonical, wanted)
        checked[canonical] = wanted
    return dict(sorted(checked.items()))


def requirement(name: str, wanted: str, folder: Path | None = None) -> str:
    """The requirement for an installer: a version, a git URL, a wheel, or a checkout's folder.

    Relative paths start at `folder`, in which the command was started; by default this process's own. Raises
    ValueError.
    """
    if _REMOTE.match(wanted):
        text = f"{name} @ {wanted}"
    elif _is_local(wanted):
        path = _path(wanted, folder)
        if not path.exists():
            raise ValueError(f"{name}: there is no {wanted}")
        if path.is_dir() and not any((path / file).is_file() for file in ("pyproject.toml", "setup.py")):
            raise ValueError(f"{name}: {wanted} is not a checkout, it has neither pyproject.toml nor setup.py")
        text = f"{name} @ {path.as_uri()}"
    else:
        try:
            Version(wanted)
        except InvalidVersion:
            known = f"a version, as in 0.18.6, a git URL, a wheel, or a folder, as in ../{name}"
            raise ValueError(f"{name}: {wanted!r} is none of: {known}") from None
        text = f"{name}=={wanted}"
    try:
        Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{name}: {wanted!r} cannot be installed: {str(error).splitlines()[0]}") from None
    return text


def is_version(wanted: str) -> bool:
    """Whether it names a release, so that an import's version can be checked against it."""
    return not _REMOTE.match(wanted) and not _is_local(wanted)


def local_contents(packages: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """A hash of the files of each package that is a local wheel or checkout: an edited checkout is another package.

    A process reads each of them once. `folder` as in `requirement`.
    """
    return {name: _content(_path(wanted, folder)) for name, wanted in packages.items() if _is_local(wanted)}


def _is_local(wanted: str) -> bool:
    return not _REMOTE.match(wanted) and ("/" in wanted or wanted.endswith(".whl"))


def _path(wanted: str, folder: Path | None) -> Path:
    return (folder or Path.cwd()) / Path(wanted).expanduser()


def _files(path: Path) -> Iterable[Path]:
    """The files of a wheel or a checkout; for a git checkout without ignored files, such as build outputs."""
    if path.is_file():
        return [path]
    if (path / ".git").exists() and (git := shutil.which("git")):
        asked = [git, "-C", str(path), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=False)
        if not listed.returncode:
            return [path / name for name in listed.stdout.split("\0") if name]
    return path.rglob("*")


@cache
def _content(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(_files(path))):
        folders = file.relative_to(path).parts
        if any(f in _NO_SOURCE or f.startswith(".") or f.endswith(".egg-info") for f in folders) or not file.is_file():
            continue
        digest.update(f"{'/'.join(folders)} {file.stat().st_size} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
