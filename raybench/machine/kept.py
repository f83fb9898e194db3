"""Answers that take seconds to find and follow from what was asked: kept on this machine, one JSON file each.

The name of an answer holds all that it depends on, versions included, so that none is ever out of date.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where raybench keeps what it can find again: `raybench` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybench"


def name_of(kind: str, question: Any) -> str:
    """The name of an answer: its kind, and a digest of the question's canonical JSON."""
    canonical = json.dumps(question, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:24]}"


def kept(name: str, find: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """The answer kept under a name, else what `find` says, which is kept unless it is None.

    A folder that cannot be written costs the search again.
    """
    file = cache_folder() / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return answer
    found = find()
    if found is not None:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f".{uuid.uuid4().hex}")
            aside.write_text(json.dumps(found), encoding="utf-8")
            aside.replace(file)
    return found
