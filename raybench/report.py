"""`python -m raybench.report LEDGER...`: one page, figures and a Markdown summary from ledgers."""

from __future__ import annotations

from raybench.analysis.__main__ import read_number
from raybench.cli import parse_arguments, run_command, suggest
from raybench.errors import UserError
from raybench.ledger.storage import to_path

USAGE = """
usage: python -m raybench.report LEDGER... [out=FOLDER] [key=value ...] [--pool-hardware]

From ledgers (folders of Parquet files, or files; of this machine, or in a store: s3://bucket/...) to a report:
report.html (one file, opens anywhere, needs no network), figures/ as SVG, PNG and PDF, summary.md for a pull request,
comparisons.csv for a spreadsheet, report.json for `python -m raybench.verify`, which recomputes all of it.
The same ledger and the same question give the same bytes.

  out=FOLDER          where to write; default: _report/ in the first ledger's folder

  margin=0.03         effects within 3 % count as none       } default: the question in the space.yaml
  alpha=0.05          level of the tests, 1 - that of the    } beside the ledger
                      intervals
  baseline=ARM        default: the arm that the ledger marks as the baseline
  metric=step_seconds what is compared; any other name lists the known ones
  ladder=A,B,C        take a chain of arms apart, as a waterfall
  quality_margin=0.01 accuracy that an arm may lose and still count as equal (0.01 is one point)
  --pool-hardware     take legs of different machines as of one; they are kept apart otherwise

examples:
  python -m raybench.report mlruns/ledger/cnns/friday
  python -m raybench.report mlruns/ledger/cnns/* out=report margin=0.05
  python -m raybench.report mlruns/ledger/cnns/friday ladder=ddp,zero1,zero3
  python -m raybench.report s3://bucket/results/cnns/friday out=friday     from a store to a folder of this machine
"""
KEYS = ("out", "margin", "alpha", "baseline", "metric", "ladder", "quality_margin")


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments(argv, usage=USAGE, flags=["pool-hardware"], positionals=(1, 1_000_000))
    for key in arguments.values:
        if key not in KEYS:
            raise UserError(f"unknown key {key}=; {suggest(key, KEYS)}")
    paths = [to_path(path) for path in arguments.positionals]
    if arguments.values.get("out") == "":
        raise UserError("out= is empty; name a folder")

    from raybench.analysis import analyse
    from raybench.show.report import write_report
    from raybench.show.words import answer_in_words

    analysis = analyse(
        paths,
        margin=read_number(arguments, "margin"),
        alpha=read_number(arguments, "alpha"),
        baseline=arguments.values.get("baseline"),
        metric=arguments.values.get("metric", "step_seconds"),
        ladder=tuple(arguments.values["ladder"].split(",")) if "ladder" in arguments.values else (),
        quality_margin=read_number(arguments, "quality_margin"),
        pool_hardware="pool-hardware" in arguments.flags,
    )
    beside = paths[0] if paths[0].is_dir() else paths[0].parent
    files = write_report(analysis, paths, to_path(arguments.values.get("out", beside / "_report")))
    print(" ".join(answer_in_words(analysis).split()))
    print(f"\n{files[0]}\n(and {len(files) - 1} more files there: figures/, summary.md, comparisons.csv)")
    return 0


if __name__ == "__main__":
    run_command(main)
