"""Text for messages: a number of things, a word that was meant, dotted names, a message in one line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

_LONGEST_MESSAGE = 1500  # characters; longer messages quote an input that no person wrote


def counted(number: float, thing: str) -> str:
    """As `1 leg` or `2 legs`."""
    return f"{number:g} {thing}{'' if number == 1 else 's'}"


def in_percent(share: float, digits: int = 0) -> str:
    """A share with so many digits: `5 %`."""
    return f"{100 * share:.{digits}f} %"


def suggest(word: str, known: Iterable[str], *, most: int = 12) -> str:
    """A suggestion instead of `word`: the closest known words, or the first of them."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = ", ".join(names[:most])
    return f"known: {shown}" + (f" ... ({len(names)} in all)" if len(names) > most else "")


def dotted(values: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted name, value): ("optimizer.lr", 0.1). Empty ones are values, and so are those of the
    keys in `whole`."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value and key not in whole:
            yield from dotted(value, whole, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def one_line(text: str) -> str:
    """`text` without line breaks or control characters, so that a message stays one line."""
    folded = " ".join(text.split())
    if len(folded) > _LONGEST_MESSAGE:
        folded = f"{folded[: _LONGEST_MESSAGE - 300]} ... {folded[-300:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in folded)
