"""What is said of a node from what it answered: versions, users' files, data. Real nodes: tests/sweep/test_fleet."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.cluster.nodes import _problem
from raybench.machine.installed import own_versions

FILES = {"/tree/mine.py": "aa"}


def answer(**changes: Any) -> dict[str, Any]:
    return {"versions": own_versions(), "files": dict(FILES), "missing": [("svhn", "/data", [])], **changes}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (answer(), ""),
        (answer(versions={**own_versions(), "python": "3.10.1"}), "python 3.10.1 and not "),
        (
            answer(error="raybench cannot be imported there (No module named 'raybench')"),
            "raybench cannot be imported there",
        ),
        ({"error": "the check there failed (killed)"}, "the check there failed (killed); every node needs"),
        (answer(files={"/tree/mine.py": ""}), "/tree/mine.py is missing there; every node needs"),
        (answer(files={"/tree/mine.py": "bb"}), "/tree/mine.py differs there; every node needs"),
        (
            answer(missing=[("svhn", "/data", ["train_32x32.mat"])]),
            "svhn is not in /data there: missing train_32x32.mat; copy or mount the files on every node that trains, "
            "or have them fetched with setting.download=true",
        ),
        (
            answer(missing=[("imagefolder", "/data", ["train", "val"])]),
            "missing train, val; copy or mount the files on every node",
        ),
    ],
)
def test_what_is_wrong_with_a_node(found: dict[str, Any], words: str) -> None:
    said = _problem(found, FILES)
    assert said.startswith(words) or words in said
    assert bool(said) == bool(words)
    assert "\n" not in said
