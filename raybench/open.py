"""Open the newest report, or that of a sweep, in the browser.

python -m raybench.open [LEDGER] [results=mlruns/ledger]
"""

from __future__ import annotations

import webbrowser
from pathlib import Path

from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError


def main(argv: list[str]) -> int:
    """Open a report and print its path. Returns 0, or 1 where no browser could be started; raises UserError."""
    arguments = parse_arguments("open", argv)
    results = Path(arguments.values.get("results", "mlruns/ledger"))
    report = find_report(Path(arguments.positionals[0]) if arguments.positionals else None, results)
    print(report)
    if not webbrowser.open(report.absolute().as_uri()):
        print("no browser could be started here; open the file above in one")
        return 1
    return 0


def find_report(ledger: Path | None, results: Path) -> Path:
    """The report of a ledger, or the newest below `results`. Raises UserError where there is none."""
    if ledger is not None:
        report = ledger / "_report" / "report.html"
        if not report.is_file():
            raise UserError(f"{ledger} has no report; python -m raybench.report {ledger} writes it")
        return report
    reports = sorted(results.glob("*/*/_report/report.html"), key=lambda path: path.stat().st_mtime)
    if not reports:
        raise UserError(f"no report in {results}; a sweep writes one at its end")
    return reports[-1]


if __name__ == "__main__":
    run_command(main)
