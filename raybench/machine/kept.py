"""A cache on this machine for answers that take seconds and depend only on their question: one JSON file each.

An answer's name covers everything that it depends on, versions included, so that it is never out of date.
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
    """The folder for raybench's cache: `raybench` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybench"


def name_of(kind: str, question: Any) -> str:
    """The name of an answer: its kind, and a digest of the question's canonical JSON."""
    canonical = json.dumps(question, sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:24]}"


def kept(name: str, find: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """The cached answer, else the result of `find`, which is cached unless it is None.

    In a folder that cannot be written, the search is repeated each time.
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
