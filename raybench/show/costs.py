"""Where the sweep's machine time went, as text: the table behind `python -m raybench.analysis LEDGER --costs`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raybench.analysis.costs import Costs
from raybench.analysis.results import Analysis

_MOST_VERDICTS = 60
_PARTS = {
    "measured steps": "measured_seconds",
    "warm-up": "warmup_seconds",
    "set-up of legs": "setup_seconds",
    "evaluation": "eval_seconds",
    "between legs": "between_seconds",
    "starts of processes": "start_seconds",
    "legs that failed": "failed_seconds",
}


def print_costs(analysis: Analysis, console: Console, price: float | None = None) -> None:
    """Print where the time went, in seconds, energy and (with the price of a machine's hour) money, and what each
    verdict took."""
    costs = analysis.costs
    machines = "1 machine" if costs.num_machines == 1 else f"{costs.num_machines} machines"
    console.print(f"[bold]{duration(costs.wall_seconds)} of {machines}{_money(costs.wall_seconds, price)}[/bold]")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "seconds", "share"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, part in _PARTS.items():
        seconds = getattr(costs, part)
        if seconds:
            table.add_row(name, f"{seconds:,.1f}", f"{seconds / costs.wall_seconds:.1%}")
    console.print(table)
    if costs.energy_joules is not None:
        console.print(f"GPUs in the measured steps: {energy(costs.energy_joules)}")
    console.print(_verdicts(analysis, costs, price))
    console.print(
        "From the ledger's timestamps; gaps of over 15 minutes, and the start before the first leg, are left out.",
        soft_wrap=True,
    )


def _verdicts(analysis: Analysis, costs: Costs, price: float | None) -> Table:
    verdicts = {(c.where.setting_id, c.arm): c.verdict for c in analysis.comparisons}
    title = "What each verdict took (its arm's legs, and its share of the baseline's)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ["setting", "arm", "verdict", "machine time"]
    columns += ["energy"] if costs.energy_joules is not None else []
    columns += ["money"] if price is not None else []
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:3] else "right", overflow="fold")
    for one in sorted(costs.verdicts, key=lambda one: -one.machine_seconds)[:_MOST_VERDICTS]:
        cells = [one.setting, one.arm, verdicts.get((one.setting_id, one.arm), ""), duration(one.machine_seconds)]
        if costs.energy_joules is not None:
            cells.append("" if one.energy_joules is None else energy(one.energy_joules))
        if price is not None:
            cells.append(f"{price * one.machine_seconds / 3600:.2f}")
        table.add_row(*map(escape, cells))
    return table


def _money(seconds: float, price: float | None) -> str:
    return "" if price is None else f", {price * seconds / 3600:,.2f} at {price:g} an hour"


def duration(seconds: float) -> str:
    """Seconds for a reader: `12.3 s`, `4 min 52 s`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def energy(joules: float) -> str:
    """Energy for a reader: joules, kilojoules, or watt-hours from a kilowatt-hour's thousandth on."""
    if joules < 1e3:
        return f"{joules:.0f} J"
    return f"{joules / 1e3:.1f} kJ" if joules < 1e6 else f"{joules / 3.6e6:.2f} kWh"
