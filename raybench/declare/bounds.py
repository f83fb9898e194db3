"""Limits on the size of a space, so that a few lines of YAML cannot fill a machine.

YAML's aliases and OmegaConf's interpolations both let a short text stand for an exponentially long one. Both are
measured here before anything is expanded. Errors are ValueErrors; the caller adds the place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from raybench.stores.storage import AnyPath

MOST_CHARACTERS: Final = 1_000_000  # of a space file or an override
MOST_VALUES: Final = 5_000  # of a space, with every alias and interpolation expanded

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w\-]*(?:\.[\w\-]+)*)\}")


def read_bounded(path: AnyPath) -> str:
    """A file's text up to one character beyond `check_length`'s limit. Raises OSError, UnicodeDecodeError."""
    if not isinstance(path, Path):
        return path.read_text()[: MOST_CHARACTERS + 1]
    with path.open(encoding="utf-8-sig") as file:
        return file.read(MOST_CHARACTERS + 1)


def check_length(text: str) -> None:
    """Raise ValueError for a text too long to be written by a person."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters long; a space has {MOST_CHARACTERS:,} at most")


def check_aliases(root: yaml.Node) -> None:
    """Raise yaml.MarkedYAMLError when a tree contains itself or, with every alias expanded, too many values."""
    _count(root, set(), {})


def _count(node: yaml.Node, within: set[int], known: dict[int, int]) -> int:
    """How many values a node contains, including itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in within:
        raise _marked(node, "an alias (*name) refers to a value that contains it; write the value out")
    if id(node) not in known:
        within.add(id(node))
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count(child, within, known) for child in children)
        within.discard(id(node))
    if known[id(node)] > MOST_VALUES:
        raise _marked(node, f"aliases (*name) expand to more than {MOST_VALUES:,} values; write fewer")
    return known[id(node)]


def _marked(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class Unfolded:
    """The sizes of values with their interpolations expanded.

    OmegaConf's resolvers are rejected: `${oc.env:NAME}` would put the environment's secrets into a ledger.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.known: dict[str, int] = {}
        self.within: list[str] = []

    def size(self, value: Any) -> int:
        """The size of a value: characters of text, 1 for everything else.

        Raises ValueError for a `${...}` that names no key, for a cycle, and beyond `MOST_CHARACTERS`.
        """
        if isinstance(value, str):
            if "${" in _REFERENCE.sub("", value):
                raise ValueError(f"{value!r:.80}: the only valid interpolation is ${{key.of.this.space}}")
            found = 1 + len(value) + sum(self._size_at(reference) for reference in _REFERENCE.findall(value))
        elif isinstance(value, Mapping):
            found = 1 + sum(self.size(item) for item in value.values())
        elif isinstance(value, list):
            found = 1 + sum(self.size(item) for item in value)
        else:
            found = 1
        if found > MOST_CHARACTERS:
            raise ValueError(f"interpolations expand to more than {MOST_CHARACTERS:,} characters; write fewer")
        return found

    def _size_at(self, reference: str) -> int:
        """The size of what a reference names; 0 where it names nothing, which OmegaConf reports."""
        if reference in self.within:
            raise ValueError(f"circular interpolation: {' -> '.join([*self.within, reference])}")
        if reference not in self.known:
            value: Any = self.content
            for part in reference.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            self.within.append(reference)
            self.known[reference] = self.size(value)
            self.within.pop()
        return self.known[reference]
