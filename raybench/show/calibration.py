"""A calibration as a person reads it: the answer in words, then tables."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raybench.analysis.calibration import Calibration, SettingNoise
from raybench.show.units import percent


def print_calibration(calibration: Calibration, console: Console) -> None:
    """Print what was found of the noise, of what trials can see, of the instruments and of isolation."""
    console.print(f"\n[bold]{escape(in_words(calibration))}[/bold]\n")
    console.print(_noise(calibration))
    for one in calibration.settings:
        if one.outlook:
            console.print(_outlook(calibration, one))
    if any(one.instruments for one in calibration.settings):
        console.print(_instruments(calibration))
    for one in calibration.settings:
        if one.isolation:
            console.print(_isolation(one), soft_wrap=True)
    failed = sum(one.failures for one in calibration.settings)
    if failed:
        console.print(f"[red]{failed} legs failed[/] and are not counted; the ledger says why")


def in_words(calibration: Calibration) -> str:
    """One sentence: how small an effect the trials of a sweep can see here."""
    known = [one for one in calibration.settings if one.scatter]
    if not known:
        return "Too few trials were measured to tell the noise of this machine; run at least two, better six."
    worst = max(known, key=lambda one: one.scatter.deviation if one.scatter else 0.0)
    assert worst.scatter
    eight = next(one for one in worst.outlook if one.trials == 8)
    where = f" (the noisiest of {len(known)} settings, {worst.setting})" if len(known) > 1 else ""
    scatter = worst.scatter
    return (
        f"{calibration.baseline} against itself scatters by {percent(scatter.deviation)} from trial to trial{where}, "
        f"or by what lies between {percent(scatter.low)} and {percent(scatter.high)}, as far as {worst.n_trials} "
        f"trials can tell. With 8 trials an arm that is faster by {percent(eight.detectable - 1)} is seen to be so "
        f"with a chance of 80 %; one without any effect is judged `helps` or `hurts` with a chance of "
        f"{percent(eight.false_verdict)}, `no effect` with one of {percent(eight.no_effect)}."
    )


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    return table


def _noise(calibration: Calibration) -> Table:
    columns = ["setting", "n", "scatter", "95 %", "trials", "rounds", "steps", "level", "verdict"]
    table = _table("Noise: standard deviations of log seconds, the baseline against itself", columns)
    for one in calibration.settings:
        parts, scatter = one.components, one.scatter
        interval = "" if scatter is None else f"{percent(scatter.low)} to {percent(scatter.high)}"
        table.add_row(
            escape(one.setting), str(one.n_trials), _percent(scatter.deviation if scatter else None), interval,
            _percent(parts.trial), _percent(parts.round), _percent(parts.step), _percent(parts.level), one.verdict,
        )  # fmt: skip
    table.caption = (
        "scatter: of a trial's log ratio, all told; trials: what each trial's processes add to it; rounds: from round "
        "to round of a trial; steps: from step to step of a leg; level: of trials' step times, which pairing takes away"
    )
    return table


def _outlook(calibration: Calibration, one: SettingNoise) -> Table:
    table = _table(
        f"{one.setting}: what trials would see, margin {percent(calibration.margin)}",
        ["trials", "false verdict", "judged no effect", "smallest effect seen", "machine time"],
    )
    for row in one.outlook:
        table.add_row(
            str(row.trials), percent(row.false_verdict), percent(row.no_effect), percent(row.detectable - 1),
            _duration(row.machine_seconds),
        )  # fmt: skip
    table.caption = (
        "false verdict and no effect: chances for an arm that changes nothing; smallest effect: seen with a chance of "
        f"80 %; machine time: {calibration.num_arms} arms in {calibration.rounds} rounds, each leg as long as the "
        "baseline's"
    )
    return table


def _instruments(calibration: Calibration) -> Table:
    table = _table("What the instruments cost, of a step", ["setting", "instrument", "price", "interval", "n"])
    for one in calibration.settings:
        for tool in one.instruments:
            interval = "" if tool.low is None or tool.high is None else f"{tool.low:+.2%} to {tool.high:+.2%}"
            price = "" if tool.price is None else f"{tool.price:+.2%}"
            table.add_row(escape(one.setting), tool.name, price, interval, str(tool.n_trials))
    return table


def _isolation(one: SettingNoise) -> str:
    found = one.isolation
    assert found
    return (
        f"{escape(one.setting)}: with processes of its own for each leg a trial scatters by "
        f"{percent(found.fresh_deviation)} and takes {_duration(found.fresh_trial_seconds)}, with shared ones by "
        f"{percent(found.shared_deviation)} and {_duration(found.shared_trial_seconds)}: to be as sure, `fresh` must "
        f"measure {found.variance_ratio:.2g} times as long (95 %: {found.low:.2g} to {found.high:.2g})"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _duration(seconds: float | None) -> str:
    """As `50 s`, `12 min`, `3.5 h`; empty where not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
