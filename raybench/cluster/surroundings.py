"""What a Ray of our own needs from this machine: a folder for its sockets, a home folder, environment variables.

Used by plan, doctor and sweep before any Ray starts; imports neither ray nor torch.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from raybench.errors import UserError

LONGEST_FOLDER: Final = 50  # Ray's socket paths are some 50 characters longer, and Unix allows 107
# raybench relies on these, whatever the user's shell sets for other programs.
_RELIED_ON: Final = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_AIR_NEW_OUTPUT": "0"}
# These would make Ray run its processes in other ways: its local mode, or somebody else's runtime environment.
_REFUSED: Final = ("RAY_LOCAL_MODE", "RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_OVERRIDE_RESOURCES")


def check_surroundings() -> None:
    """Raise UserError where a Ray on this machine could not start; skipped where RAY_ADDRESS names a cluster."""
    if os.environ.get("RAY_ADDRESS", "") not in ("", "auto", "local"):
        return
    if problem := folder_problem():
        raise UserError(problem)
    for name in _REFUSED:
        if os.environ.get(name):
            raise UserError(f"{name} is set, and changes what Ray does with a sweep's processes: unset {name}")


def set_variables() -> None:
    """Set the Ray variables that raybench relies on, for this process and its children. Caches move to the temporary
    folder where the home folder cannot be written."""
    os.environ.update(_RELIED_ON)
    home = Path(os.environ.get("HOME") or "/nonexistent")
    if _why_unwritable(home / ".cache"):
        caches = Path(session_folder()[1]) / f"raybench-caches-{os.getuid()}"
        for name, folder in (("TORCH_EXTENSIONS_DIR", "torch_extensions"), ("TRITON_CACHE_DIR", "triton"),
                             ("XDG_CACHE_HOME", "cache"), ("MPLCONFIGDIR", "matplotlib")):  # fmt: skip
            os.environ.setdefault(name, str(caches / folder))


def session_folder() -> tuple[str, str]:
    """The variable that sets the folder for Ray's sockets, and the folder; the variable is empty where none is set."""
    for name in ("RAY_TMPDIR", "TMPDIR"):  # in Ray's order
        if os.environ.get(name):
            return name, os.environ[name]
    return "", tempfile.gettempdir()


def folder_problem() -> str:
    """Why Ray cannot keep its sockets in the configured folder; empty where it can. Creates nothing."""
    name, folder = session_folder()
    told = f"{name}={folder}" if name else folder
    remedy = "set RAY_TMPDIR=/tmp"
    if len(folder) > LONGEST_FOLDER:
        return (
            f"{told:.200}: the folder's path is too long for Ray's sockets: {len(folder)} characters, at most "
            f"{LONGEST_FOLDER} are possible; {remedy}"
        )
    if why := _why_unwritable(Path(folder) / "ray"):
        return f"{told}: Ray cannot keep its sockets there: {why}; {remedy}"
    return ""


def _why_unwritable(folder: Path) -> str:
    """Why a folder cannot be made or written; empty where it can, as far as can be told without trying."""
    try:
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        if not there.is_dir():
            return f"{there} is no folder"
        if not os.access(there, os.W_OK | os.X_OK) or there.as_posix().startswith("/proc"):
            return f"{there} cannot be written"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return ""
