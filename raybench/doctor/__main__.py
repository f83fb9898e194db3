"""`python -m raybench.doctor`: is this machine fit for sweeps, and if not, what is to be done?"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("doctor")

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raybench.cli import parse_arguments, run_command
from raybench.doctor import hardware, link_speeds, services, software
from raybench.doctor.finding import Finding
from raybench.stores.storage import AnyPath, to_path
from raybench.text import counted

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}


def main(argv: list[str]) -> int:
    """Print the diagnosis. Returns 0, or 1 where there is an error; raises UserError for bad input."""
    arguments = parse_arguments("doctor", argv)
    findings = diagnose(to_path(arguments.values.get("results", "mlruns/ledger")), "build-ops" in arguments.flags)
    if "links" in arguments.flags:  # after the other checks, which would take its processors
        findings += link_speeds.measured()
    if folder := arguments.values.get("nvme"):
        findings.append(link_speeds.disk(Path(folder)))
    counts: Counter[str] = Counter(finding.status for finding in findings)
    if "json" in arguments.flags:
        report = {"schema_version": 1, "errors": counts["error"], "warnings": counts["warning"]}
        print(json.dumps({**report, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        print_findings(findings, Console())
    return 1 if counts["error"] else 0


def diagnose(results: AnyPath, build_ops: bool = False) -> list[Finding]:
    """Every finding, in reading order. Checks that wait for something run side by side."""
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(check) for check in (services.ray_cluster, services.mlflow, services.ports)]
        answer = software.probe(build_ops)
        ray, mlflow, ports = (future.result() for future in waiting)
    built = software.ops_built(answer)
    return [
        software.python(),
        software.compiler(built),
        software.ninja(built),
        *software.versions(),
        *software.imports(answer),
        *software.operators(answer),
        hardware.accelerators(answer),
        hardware.cores(),
        hardware.memory(),
        hardware.shared_memory(),
        *hardware.disks(results),
        hardware.open_files(),
        hardware.temporary_folder(),
        services.host_name(),
        services.loopback(),
        ports,
        ray,
        services.ray_token(),
        mlflow,
        *services.cluster_file(),
    ]


def print_findings(findings: list[Finding], console: Console) -> None:
    """A line a finding, the remedy below it where there is one to take, and the sum of it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(_MARKS[finding.status], finding.name, escape(finding.found))
        if finding.remedy and finding.status != "ok":
            table.add_row("", "", f"[bold]->[/] {escape(finding.remedy)}")
    console.print(table)
    counts: Counter[str] = Counter(finding.status for finding in findings)
    console.print(f"\n{_sum(counts)}")


def _sum(counts: Counter[str]) -> str:
    warnings = counted(counts["warning"], "warning")
    if counts["error"]:
        return f"{counted(counts['error'], 'error')}, {warnings}: not fit for sweeps yet"
    return f"fit for sweeps; {warnings}" if counts["warning"] else "fit for sweeps"


if __name__ == "__main__":
    run_command(main)
