"""`python -m raybench.compare A B`: what changed from one sweep to another.

For example another version of DeepSpeed, another machine, another day; the method is in
`raybench.analysis.across.changes`.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("compare")

import json
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from raybench.analysis import analyse
from raybench.analysis.across.changes import VERDICTS, changes
from raybench.analysis.question import declared_beside
from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.show.differences import changes_document, changes_in_words
from raybench.show.terminal import print_in_order
from raybench.statistics.estimate import plain
from raybench.stores.storage import to_path
from raybench.text import suggest


def main(argv: list[str]) -> int:
    """Run the command: 0, or 1 when `--fail-on` names a verdict that a change has."""
    arguments = parse_arguments("compare", argv)
    fail_on = _fail_on(arguments.options.get("fail-on", ()))

    paths = [to_path(path) for path in arguments.positionals]
    declared = declared_beside(paths)
    margin, alpha = declared.margin(arguments.number("margin")), declared.alpha(arguments.number("alpha"))
    baseline, metric = arguments.values.get("baseline"), arguments.values.get("metric", "step_seconds")
    a, b = (analyse([path], margin=margin, alpha=alpha, baseline=baseline, metric=metric) for path in paths)
    if a.baseline != b.baseline:
        raise UserError(f"A's baseline is {a.baseline}, B's is {b.baseline}; give baseline=ARM")
    found = changes(a, b, margin, alpha)
    if "json" in arguments.flags:
        report = {"schema_version": 1, "margin": margin, "alpha": alpha, "baseline": a.baseline, "metric": metric}
        report |= {"answer": changes_in_words(found, margin), "changes": plain(found)}
        json.dump(report, sys.stdout, allow_nan=False, indent=1)
        print()
    else:
        print_in_order(changes_document(a, b, found, margin), Console())
    failing = Counter(c.verdict for c in found if c.verdict in fail_on)
    if failing:
        told = ", ".join(f"{count} {verdict}" for verdict, count in failing.items())
        print(f"raybench: --fail-on: {told}", file=sys.stderr)
    return 1 if failing else 0


def _fail_on(given: Sequence[str]) -> frozenset[str]:
    """The verdicts that `--fail-on` names; `hurts` includes `lost`. Raises UserError for an unknown one."""
    names = [name for names in given for name in names.split(",")]
    for name in names:
        if name not in VERDICTS:
            raise UserError(f"--fail-on {name or 'nothing'}: {suggest(name, VERDICTS)}")
    return frozenset([*names, *(["lost"] if "hurts" in names else [])])


if __name__ == "__main__":
    run_command(main)
