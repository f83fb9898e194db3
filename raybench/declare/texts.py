"""The texts that a language model may be trained on, read as documents of bytes: no torch here.

`synthetic_tokens` is one random batch; `text` is a file, or a folder of files, at `data_root`; `pydoc` is the help text
included in Python (pydoc_data.topics), about half a megabyte of English.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from raybench.declare.datasets import data_folder
from raybench.errors import BadData

TEXTS: Final = ("synthetic_tokens", "text", "pydoc")
SYNTHETIC_SEQUENCES: Final = {True: 50_000, False: 1_000}  # training and held-out sequences of synthetic_tokens
HELD_OUT: Final = 0.1  # the share at a text's end that is held out where it has no `val` folder
_SPLIT: Final = ("train", "val")


@dataclass(frozen=True)
class Corpus:
    """A text as documents, in a fixed order: those for training, and those held out."""

    train: tuple[bytes, ...]
    held_out: tuple[bytes, ...]


@lru_cache(maxsize=2)
def corpus(dataset: str, data_root: str) -> Corpus:
    """The documents of `text` or `pydoc`. Raises BadData where there are none."""
    if dataset == "pydoc":
        from pydoc_data.topics import topics

        return _cut([topics[name].encode() for name in sorted(topics)])
    root = data_folder(data_root)
    if all((root / part).is_dir() for part in _SPLIT):
        train, held_out = (tuple(_read(root / part)) for part in _SPLIT)
        return Corpus(train, held_out)
    return _cut(_read(root))


def _cut(documents: Sequence[bytes]) -> Corpus:
    """Hold out the last tenth of the bytes; the document in which it begins is split at the end of a line."""
    left = round((1 - HELD_OUT) * sum(map(len, documents)))
    train: list[bytes] = []
    for number, document in enumerate(documents):
        if len(document) >= left:
            line_end = document.find(b"\n", left) + 1 or left
            parts = document[:line_end], document[line_end:]
            held_out = [parts[1], *documents[number + 1 :]]
            return Corpus((*train, parts[0]), tuple(part for part in held_out if part))
        train.append(document)
        left -= len(document)
    return Corpus(tuple(train), ())


def _read(root: Path) -> list[bytes]:
    """The contents of a file, or of a folder's files in path order, without hidden ones."""
    if not root.exists():
        raise BadData(
            f"text: {root} does not exist; put a text file or a folder of them there, or name another place with "
            "setting.data_root="
        )
    files = [root]
    if root.is_dir():
        inside = (file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_file())
        files = [root / file for file in inside if not any(part.startswith(".") for part in file.parts)]
    try:
        documents = [file.read_bytes() for file in files]
    except OSError as error:
        raise BadData(f"text: {error.filename} cannot be read ({error.strerror})") from error
    if not any(documents):
        raise BadData(f"text: {root} holds no text; put files with text there")
    return [document for document in documents if document]


def check_text(dataset: str, data_root: str, tokenizer: str | None) -> None:
    """Raise BadData where a text, or its tokenizer's file, is missing on this machine."""
    if dataset != "synthetic_tokens":
        found = corpus(dataset, data_root)
        if not found.held_out:
            raise BadData(f"{dataset}: the text in {data_folder(data_root)} is too short to hold a part of it out")
    if tokenizer is not None and not data_folder(tokenizer).is_file():
        raise BadData(f"tokenizer: there is no file {data_folder(tokenizer)}; name a tokenizer.json")
