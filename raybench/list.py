"""List what a space may contain and what has run: spaces, models, datasets, sweeps; or print a space's JSON Schema.

python -m raybench.list [spaces|models|datasets|sweeps|schema] [PART OF A NAME]
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("list")

import json
from pathlib import Path

from raybench.cli import parse_arguments, run_command
from raybench.declare import catalog
from raybench.declare.datasets import DATASETS
from raybench.declare.spacefile import SpaceFile, known_spaces
from raybench.declare.texts import TEXTS
from raybench.errors import UserError
from raybench.ledger.reading import ledger_files, read_ledger
from raybench.stores.storage import AnyPath, to_path
from raybench.text import suggest

KINDS = ("spaces", "models", "datasets", "sweeps", "schema")
_OWN_OR_TEXT = {
    "imagefolder": "your images, data_root/train/CLASS/*.jpg",
    "pydoc": "text: the help of Python itself, half a megabyte",
    "synthetic_tokens": "text: one random batch",
    "text": "your text: a file or a folder of files at data_root",
}


def main(argv: list[str]) -> int:
    """Print names, one a line. Returns 0; raises UserError for an unknown kind."""
    arguments = parse_arguments("list", argv)
    kind, part = (*arguments.positionals, "", "")[:2]
    if kind and kind not in KINDS:
        raise UserError(f"{kind!r} cannot be listed; {suggest(kind, KINDS)}")
    if kind == "schema":
        from raybench.declare.space_schema import space_schema  # pydantic's models, which the lists do not need

        print(json.dumps(space_schema(), indent=1))
        return 0
    results = to_path(arguments.values.get("results", "mlruns/ledger"))
    listed = {
        "spaces": lambda: [(name, _purpose(name)) for name in known_spaces()],
        "models": lambda: sorted((name, catalog.origin(name)[0]) for name in catalog.known_models()),
        "datasets": lambda: [(name, _dataset(name)) for name in sorted([*DATASETS, *TEXTS])],
        "sweeps": lambda: _sweeps(results),
    }
    for name in [kind] if kind else ["spaces", "sweeps"]:
        if not kind:
            print(f"{name}:" if name == "spaces" else f"\n{name} in {results}:")
        rows = [row for row in listed[name]() if part.lower() in row[0].lower()]
        width = min(max((len(row[0]) for row in rows), default=0), 60)
        print("\n".join(f"{row[0]:<{width}}  {row[1]}".rstrip() for row in rows) or f"no {name}")
    return 0


def _purpose(space: str) -> str:
    """The question that a space answers, from its first comment."""
    lines = SpaceFile.find(space).path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ").strip() for line in lines[:4] if line.startswith("#"))
    return comment.removeprefix("What it answers: ").partition("?")[0] + ("?" if "?" in comment else "")


def _dataset(name: str) -> str:
    if name in _OWN_OR_TEXT:
        return _OWN_OR_TEXT[name]
    facts = DATASETS[name]
    return f"{facts.train_samples:,} images of {facts.image_size} pixels, {facts.classes} classes"


def _sweeps(results: AnyPath) -> list[tuple[str, str]]:
    """The ledgers below a results folder, each with its number of legs and the day on which they began."""
    if not isinstance(results, Path):
        raise UserError(f"{results}: only ledgers of this machine can be listed")
    rows = []
    for space in sorted(results.glob("*/*/_space.yaml")):
        folder = space.parent
        if not any(folder.glob("*.parquet")):
            continue
        ledger_files(folder)
        table = read_ledger(folder, ["status", "started_at"])
        failed = table["status"].to_pylist().count("failed")
        begun = min(table["started_at"].to_pylist()).date()
        rows.append((str(folder), f"{len(table)} legs, {failed} failed, begun {begun}"))
    return rows


if __name__ == "__main__":
    run_command(main)
