"""The terminal display of a running sweep: a live view, or plain lines where there is no terminal.

The driver draws the live view once a second. It shares the machine with what is timed, so the view starts no thread
and does not read the ledger. Failures are printed as they happen and stay. Verdicts come only at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raybench.cluster.admission import Missed
from raybench.driver.messages import LegEvent, News, Note, RunningLeg
from raybench.driver.progress import Progress, SpeedupSoFar
from raybench.show.units import between, duration, percent, ratio
from raybench.text import counted

Level = Literal["quiet", "normal", "verbose"]
# From this many legs on, a line reports a trial instead of a leg, and at most one line is printed in ten seconds.
MANY_LEGS = 200
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE_TOLD = 10.0  # nodes missing for less are usually just starting
_SECONDS_BETWEEN_WAITS = 60.0
_MOST_ROWS = 12


class Display:
    """Reports a running sweep on a console. A context manager: the live view is removed when it ends."""

    def __init__(
        self, progress: Progress, console: Console, level: Level, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress = progress
        self.console = console
        self.level = level
        self.stopping = False
        self._clock = clock
        self._begun = clock()
        self._running: list[RunningLeg] = []
        self._due: Mapping[str, int] | None = None
        self._missed: list[Missed] = []  # what the sweep is waiting for
        self._waits_told: dict[str, float] = {}  # what is waited for -> seconds waited at the last report
        self._failures: set[tuple[str, str, str]] = set()
        self._told_at = self._begun
        self._by_leg = level == "verbose" or progress.num_legs - progress.num_done < MANY_LEGS
        live = level != "quiet" and console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def expect(self, due: Mapping[str, int]) -> None:
        """Set how many trials each setting should have until the next look; not called from the thread of `update`."""
        self._due = due

    def update(self, news: News) -> None:
        """Process the recorder's news and show them."""
        if self._due is not None:
            self.progress.limit(self._due)
            self._due = None
        self._running = news.running
        for event in news.events:
            if isinstance(event, Note):
                self._take_note(event)
                continue
            if self.progress.has(event):
                continue  # sent again by a restarted recorder
            complete = self.progress.add(event)
            if self.level != "quiet":
                self._tell(event, complete)
        self._missed = [one for one in news.missed if one.seconds >= _SECONDS_BEFORE_TOLD]
        if self.level != "quiet" and not self._live:
            self._tell_missed()
        self._draw()

    def _tell_missed(self) -> None:
        """Print a line for nodes that are waited for, and another each minute."""
        for one in self._missed:
            told = self._waits_told.get(one.what)
            if told is None or not told <= one.seconds < told + _SECONDS_BETWEEN_WAITS:
                self._waits_told[one.what] = one.seconds
                self.say(wait_line(one))

    def _take_note(self, note: Note) -> None:
        """Report what happened to a trial or to the recorder; a trial that begins anew has to run its legs again."""
        if note.begins_anew is not None:
            self.progress.begin_anew(note.begins_anew)
        if self.level != "quiet":
            self.say(f"[yellow]note[/]: {escape(note.text)}")

    def say(self, text: str) -> None:
        """Print a line that stays, at every level; `text` is rich markup."""
        self.console.print(text, soft_wrap=True)

    def stop(self) -> None:
        """Say that the running legs will finish and no more will begin."""
        self.stopping = True
        if self.level != "quiet":
            legs = counted(len(self._running), "running leg")
            self.say(f"[yellow]stopping[/]: finishing {legs}, then no more; Ctrl-C again stops now")
        self._draw()

    def _tell(self, event: LegEvent, complete: bool) -> None:
        """Print a line for a leg's outcome, if one is due; the same failure of an arm in a setting is reported once."""
        told = self.level == "verbose" or (self._by_leg and not self._live)
        if event.failure:
            same = (event.setting, event.arm, event.failure)
            told = told or same not in self._failures
            self._failures.add(same)
        if told:
            self.say(f"{self._count()} {leg_line(event)}")
        if self._live or not complete or self.progress.num_done == self.progress.num_legs:
            return
        if self._by_leg:
            self.say(f"[dim]{self._time_left()}[/]")
        elif self._clock() - self._told_at >= _SECONDS_BETWEEN_LINES:
            trials = f"{self.progress.num_trials_done} of {self.progress.num_trials} trials"
            self.say(f"{self._count()} {trials}; {self._time_left()}")
            self._told_at = self._clock()

    def _count(self) -> str:
        total = str(self.progress.num_legs)
        return escape(f"[{self.progress.num_done:>{len(total)}}/{total}]")

    def _time_left(self) -> str:
        left = self.progress.seconds_left(self._clock() - self._begun)
        if left is None:
            return "time left: known after the first leg"
        return f"about {duration(left)} {'to the next look' if self.progress.until_a_look else 'left'}"

    def _draw(self) -> None:
        if self._live:
            self._live.update(self._view(), refresh=True)

    def _view(self) -> RenderableType:
        progress = self.progress
        width = min(self.console.width, 110)
        share = progress.num_done / max(1, progress.num_legs)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            "legs",
            ProgressBar(total=progress.num_legs, completed=progress.num_done, width=max(10, width - 30)),
            f"{progress.num_done}/{progress.num_legs}",
            f"{100 * share:.0f} %",
        )
        failed = f"; [red]{progress.num_failed} legs failed[/]" if progress.num_failed else ""
        elapsed = duration(self._clock() - self._begun)
        state = (
            f"trials {progress.num_trials_done}/{progress.num_trials}{failed}; {elapsed} so far, {self._time_left()}"
        )
        parts: list[RenderableType] = ["", head, Text.from_markup(state), *self._now()]
        shown = self._rows()
        if shown:
            parts.append(self._speedups(shown))
        how = "finishing the running legs; Ctrl-C again stops now" if self.stopping else _HOW
        parts.append(Text(how, style="dim"))
        return Group(*parts)

    def _now(self) -> list[RenderableType]:
        """What runs now, one line each; between legs, a line that says so."""
        several = len({one.node for one in self._running}) > 1
        lines: list[RenderableType] = []
        for one in self._running[:4]:
            where = f" on {one.node}" if several else ""
            text = f"{leg_name(one)}: {duration(one.seconds)}{where}"
            lines.append(Text("runs   " + text, overflow="ellipsis", no_wrap=True))
        if len(self._running) > 4:
            lines.append(f"       and {len(self._running) - 4} more")
        lines += [Text.from_markup(wait_line(one)) for one in self._missed[:4]]
        return lines or [Text("runs   no leg: a trial's processes are starting or ending", style="dim")]

    def _rows(self) -> list[SpeedupSoFar]:
        """The speedups that fit: those that changed last, in the order of the plan."""
        room = min(_MOST_ROWS, max(0, self.console.height - 14))
        order = {trial.label: place for place, trial in enumerate(self.progress.plan.trials)}
        return sorted(self.progress.speedups(room), key=lambda one: (order[one.setting], one.arm))

    def _speedups(self, rows: list[SpeedupSoFar]) -> Table:
        level = percent(1 - self.progress.alpha)
        table = Table(
            title=f"speedup so far and its {level} interval; no verdict before the end",
            title_justify="left", title_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
            show_edge=False, min_width=min(self.console.width, 72),
        )  # fmt: skip
        table.add_column("setting", overflow="ellipsis", no_wrap=True)
        table.add_column("arm", no_wrap=True)
        for name in ("speedup", "interval", "n"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in rows:
            interval = between(*(one.interval or (None, None)))
            table.add_row(escape(one.setting), escape(one.arm), ratio(one.speedup), interval, str(one.n))
        hidden = self.progress.num_speedups - len(rows)
        if hidden > 0:
            table.add_row(f"... and {hidden} more")
        return table


_HOW = "Ctrl-C: finish the running legs and stop; twice: stop now. Both can be resumed"


def leg_name(event: LegEvent | RunningLeg) -> str:
    """A leg's name for people."""
    if event.profiled:
        return f"{event.setting} | {event.arm} | profiled"
    return f"{event.setting} | {event.arm} | repeat {event.repeat} round {event.round}"


def wait_line(missed: Missed) -> str:
    """A line of rich markup about nodes that are waited for."""
    so_far, most = duration(missed.seconds), duration(missed.most)
    return f"[yellow]waiting[/] for {escape(missed.what)}: {so_far} so far, at most {most}"


def leg_line(event: LegEvent) -> str:
    """A leg and its outcome, as rich markup."""
    if event.failure:
        return f"{escape(leg_name(event))}: [red]failed[/]: {escape(event.failure)}"
    of_what = "in all" if event.num_steps == 1 else "a step"
    return f"{escape(leg_name(event))}: {1e3 * event.mean_step_seconds:.2f} ms {of_what}"
