"""Raybench from Python and from notebooks: plan, run, read, analyse. `from raybench import ...` gives each of these.

Reading and analysing need no torch, ray or deepspeed; `run` needs the extra `run`.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from raybench.analysis import Analysis
from raybench.analysis import analyse as _analyse
from raybench.declare.plan import Plan, plan_from_arguments
from raybench.declare.space import Space
from raybench.ledger import reading
from raybench.stores.storage import AnyPath, to_path
from raybench.text import dotted

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

Ledgers = str | Path | Sequence[str | Path]


class _Shown:
    """Something that notebooks and `print` show as the command prints it."""

    def _print(self, console: Console) -> None:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        console = _aside()
        self._print(console)
        return console.export_html(inline_styles=True, code_format=_PRE)

    def __str__(self) -> str:
        console = _aside()
        self._print(console)
        return cast(io.StringIO, console.file).getvalue()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text that IPython shows in a terminal."""
        printer.text("..." if cycle else str(self))


def _aside() -> Console:
    """A console that captures its text; otherwise rich would display it inside a notebook by itself."""
    return Console(file=io.StringIO(), width=100, record=True, force_jupyter=False, force_terminal=False)


@dataclass(frozen=True, repr=False)  # a generated repr would win over _repr_pretty_ in IPython
class Answer(_Shown, Analysis):
    """An analysis that a notebook shows; its fields are those of `raybench.analysis.Analysis`."""

    def to_pandas(self) -> pd.DataFrame:
        """The comparisons, one row each, with the columns of `--json` (docs/ledger.md)."""
        import pandas as pd

        return pd.DataFrame(self.to_json()["comparisons"])

    def figures(self) -> dict[str, Figure]:
        """The report's figures by name, as matplotlib figures."""
        from raybench.show.figures.series import read_steps
        from raybench.show.report_files import draw_all

        return {plot.name: plot.figure for plot in draw_all(self, read_steps(_as_paths(self.ledgers), self))}

    def _print(self, console: Console) -> None:
        from raybench.show import answer, terminal

        terminal.print_document(answer.build(self), console)


@dataclass(frozen=True, repr=False)
class Outlook(_Shown):
    """What a sweep would run: `plan` holds every trial and leg, `space` what was declared."""

    plan: Plan
    space: Space

    def _print(self, console: Console) -> None:
        from raybench.show import outlook, terminal

        terminal.print_in_order(outlook.build(self.plan, self.space, to_path("mlruns/ledger")), console)


_PRE = '<pre style="font-family:monospace;line-height:1.3">{code}</pre>'


def plan(space: str | Path, *, size: str = "", sweep: str = "", **fields_of_space: Any) -> Outlook:
    """What a sweep would run; runs nothing.

    `space` is a name or a path; other keywords override fields of the space, as in
    `plan("cnns", repeats=4, setting={"batch_size": [64, 128]})`. Raises UserError, a ValueError, in one line.
    """
    return Outlook(*plan_from_arguments(_words(space, size, sweep, fields_of_space)))


def run(
    space: str | Path,
    *,
    size: str = "",
    sweep: str = "",
    results: str | Path = "mlruns/ledger",
    quiet: bool = True,
    **fields_of_space: Any,
) -> Answer:
    """Run a sweep, or what its ledger lacks, and analyse it. Arguments and errors are those of `plan`.

    Raises NothingMeasured and Interrupted as the command does. Needs the extra `run`.
    """
    from raybench.sweep import Request, run_sweep

    outlook = plan(space, size=size, sweep=sweep, **fields_of_space)
    folder = (to_path(str(results)) / outlook.plan.space / outlook.plan.sweep).absolute()
    words = [f"{key}={value}" for key, value in _words(space, size, sweep, fields_of_space).items()]
    command = shlex.join(["python", "-m", "raybench.sweep", *words])
    request = Request(outlook.plan, outlook.space, folder, command, "quiet" if quiet else "normal")
    run_sweep(request, Console(quiet=quiet))
    return analyse(str(folder))


def read_ledger(ledgers: Ledgers, columns: Sequence[str] | None = None) -> pa.Table:
    """The raw rows, one a leg (docs/ledger.md); `.to_pandas()` makes a DataFrame of them. Raises UserError."""
    import pyarrow as pa

    tables = [reading.read_ledger(path, list(columns) if columns else None) for path in _as_paths(ledgers)]
    return pa.concat_tables(tables, promote_options="default")


def analyse(ledgers: Ledgers, **question: Any) -> Answer:
    """From ledgers (a folder, a file, or several) to speedups and verdicts.

    Keywords are those of `raybench.analysis.analyse`: margin, alpha, baseline, metric, by, ladder, quality_margin,
    pool_hardware. Raises UserError.
    """
    found = _analyse(_as_paths(ledgers), **question)
    return Answer(**{field.name: getattr(found, field.name) for field in fields(found)})


def _as_paths(ledgers: Ledgers) -> list[AnyPath]:
    several = [ledgers] if isinstance(ledgers, str | Path) else ledgers
    return [to_path(str(ledger)) for ledger in several]


def _words(space: str | Path, size: str, sweep: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The equivalent `key=value` pairs of a command line."""
    words = {"space": str(space), **({"size": size} if size else {}), **({"sweep": sweep} if sweep else {})}
    return words | {name: value if isinstance(value, str) else json.dumps(value) for name, value in dotted(values)}
