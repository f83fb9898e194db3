"""`python -m raybench.report LEDGER...`: one page, figures and a Markdown summary from ledgers."""

from __future__ import annotations

from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.stores.storage import to_path


def main(argv: list[str]) -> int:
    """Run the command; 0 when done. Raises UserError for bad input."""
    arguments = parse_arguments("report", argv)
    paths = [to_path(path) for path in arguments.positionals]
    if arguments.values.get("out") == "":
        raise UserError("out= is empty; name a folder")

    from rich.console import Console

    from raybench.analysis import analyse
    from raybench.show import answer
    from raybench.show.report_files import write_report
    from raybench.show.terminal import print_document

    analysis = analyse(
        paths,
        margin=arguments.number("margin"),
        alpha=arguments.number("alpha"),
        baseline=arguments.values.get("baseline"),
        metric=arguments.values.get("metric", "step_seconds"),
        ladder=arguments.names("ladder"),
        quality_margin=arguments.number("quality_margin"),
        pool_hardware="pool-hardware" in arguments.flags,
    )
    beside = paths[0] if paths[0].is_dir() else paths[0].parent
    files = write_report(
        analysis,
        paths,
        to_path(arguments.values.get("out", beside / "_report")),
        title=arguments.values.get("title", ""),
    )
    console = Console()
    print_document(answer.build(analysis), console)
    console.print(f"report: {files[0]}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_command(main)
