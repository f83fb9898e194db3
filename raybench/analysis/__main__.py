"""`python -m raybench.analysis LEDGER...`: from ledgers to speedups and verdicts."""

from __future__ import annotations

import json
import sys

from raybench.cli import parse_arguments, run_command
from raybench.stores.storage import to_path

FORMATS = ("json", "csv", "markdown", "latex")


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments("analysis", argv)
    price = arguments.price()
    formats = [name for name in FORMATS if name in arguments.flags]

    from raybench.analysis import analyse

    analysis = analyse(
        [to_path(path) for path in arguments.positionals],
        margin=arguments.number("margin"),
        alpha=arguments.number("alpha"),
        multiplicity=arguments.values.get("multiplicity"),
        baseline=arguments.values.get("baseline"),
        metric=arguments.values.get("metric", "step_seconds"),
        by=arguments.values.get("by"),
        ladder=arguments.names("ladder"),
        quality_margin=arguments.number("quality_margin"),
        pool_hardware="pool-hardware" in arguments.flags,
    )
    if "json" in formats:
        # Indented for people, unless the output is too long to read: Python's indented JSON is slow.
        indent = 1 if len(analysis.comparisons) <= 1000 else None
        found = analysis.to_json()
        if price is not None:
            found["costs"]["money"] = price * analysis.costs.wall_seconds / 3600
        print(json.dumps(found, allow_nan=False, indent=indent))
    elif formats:
        from raybench.show.tables import WRITERS

        sys.stdout.write(WRITERS[formats[0]](analysis))
    else:
        from rich.console import Console

        from raybench.show import answer, sections
        from raybench.show.terminal import print_document, print_section

        console, flags = Console(), set(arguments.flags)
        if {"by", "ladder"} & arguments.values.keys():  # shown below the answer alone
            flags.add("full")
        if price is not None:
            flags.add("costs")
        if "costs" in flags:
            print_section(sections.cost_section(analysis, price), console)
        else:
            print_document(answer.build(analysis), console, full="full" in flags, quiet="quiet" in flags)
        if not {"costs", "full", "quiet"} & flags:
            console.print("--full: every comparison, what speed was paid with, caveats, the method", style="dim")
    return 0


if __name__ == "__main__":
    run_command(main)
