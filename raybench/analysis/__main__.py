"""`python -m raybench.analysis LEDGER...`: from ledgers to speedups and verdicts."""

from __future__ import annotations

import json
import sys

from raybench.cli import Arguments, parse_arguments, run_command, suggest
from raybench.errors import UserError
from raybench.ledger.storage import to_path

USAGE = """
usage: python -m raybench.analysis LEDGER... [key=value ...] [--json | --csv | --markdown | --latex]

From ledgers (folders of Parquet files, or files; of this machine, or in a store: s3://bucket/...) to speedups with
intervals and verdicts.

  margin=0.03         effects within 3 % count as none       } default: the question in the _space.yaml
  alpha=0.05          level of the tests, 1 - that of the    } beside the ledger
                      intervals
  baseline=ARM        default: the arm that the ledger marks as the baseline
  metric=step_seconds what is compared; any other name lists the known ones
  by=family           summaries of the arms by family, dataset, precision, model, global_batch, workers

  ladder=A,B,C        take a chain of arms apart: what each rung brought, adding up to the whole;
                      default: the chain that the space declares
  quality_margin=0.01 accuracy that an arm may lose and still count as equal (0.01 is one point)

  --json              everything, as one JSON object and nothing else
  --csv, --markdown, --latex
                      the table of comparisons for a spreadsheet, a pull request, a paper (booktabs)
  --pool-hardware     take legs of different machines as of one; they are kept apart otherwise

examples:
  python -m raybench.analysis mlruns/ledger/cnns/friday
  python -m raybench.analysis mlruns/ledger/cnns/friday margin=0.05 by=family
  python -m raybench.analysis mlruns/ledger/cnns/* --json > speedups.json
"""
KEYS = ("margin", "alpha", "baseline", "metric", "by", "ladder", "quality_margin")
FORMATS = ("json", "csv", "markdown", "latex")


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments(argv, usage=USAGE, flags=[*FORMATS, "pool-hardware"], positionals=(1, 1_000_000))
    for key in arguments.values:
        if key not in KEYS:
            raise UserError(f"unknown key {key}=; {suggest(key, KEYS)}")
    formats = [name for name in FORMATS if name in arguments.flags]
    if len(formats) > 1:
        raise UserError(f"--{formats[0]} and --{formats[1]} are both given; take one")

    from raybench.analysis import analyse

    analysis = analyse(
        [to_path(path) for path in arguments.positionals],
        margin=read_number(arguments, "margin"),
        alpha=read_number(arguments, "alpha"),
        baseline=arguments.values.get("baseline"),
        metric=arguments.values.get("metric", "step_seconds"),
        by=arguments.values.get("by"),
        ladder=tuple(arguments.values["ladder"].split(",")) if "ladder" in arguments.values else (),
        quality_margin=read_number(arguments, "quality_margin"),
        pool_hardware="pool-hardware" in arguments.flags,
    )
    if "json" in formats:
        # Indented for a reader, unless there is more than anyone reads: Python indents slowly.
        indent = 1 if len(analysis.comparisons) <= 1000 else None
        print(json.dumps(analysis.to_json(), allow_nan=False, indent=indent))
    elif formats:
        from raybench.show.tables import WRITERS

        sys.stdout.write(WRITERS[formats[0]](analysis))
    else:
        from rich.console import Console

        from raybench.show.terminal import print_analysis

        print_analysis(analysis, Console())
    return 0


def read_number(arguments: Arguments, key: str) -> float | None:
    """The number given as key=, None where it is not given. Raises UserError for anything else."""
    if key not in arguments.values:
        return None
    try:
        return float(arguments.values[key])
    except ValueError:
        raise UserError(f"{key}={arguments.values[key]} is no number") from None


if __name__ == "__main__":
    run_command(main)
