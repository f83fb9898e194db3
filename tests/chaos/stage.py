"""A chaos run: the sweep's command, run after run, while a script's blows fall on it, until it is complete.

The same for faked and for real engines, and for the kills that a person starts by hand.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.tracking import MlflowClient

from tests.chaos.nodes import Nodes
from tests.chaos.processes import TITLES, kill_one, parent, take_room, victims, wait_for
from tests.chaos.script import ENDS, Blow, Run, Script
from tests.conftest import command_environment
from tests.sweep.test_interrupt import MARK, processes_of
from tests.tracking.conftest import Server
from tests.tracking.test_publishing import check_runs_equal_rows

_RUN_SECONDS = 900.0
_DYING_SECONDS = 30.0
# Ray's agents, of runtime environments and of the dashboard, tell the GCS that their raylet is dead. Where both died at
# once, with the driver of a sweep's own Ray, they give this up after 60 s, and end; so does a worker that was just
# being started, and seeks the two.
_LATE = re.compile(
    r"ray::(RuntimeEnv|Dashboard)Agent|\S+ .*/(runtime_env/agent/main|dashboard/agent|workers/default_worker)\.py "
)
_LATE_SECONDS = 90.0
_ENDING_SECONDS = 90.0  # of a run that an end has struck
# The last words of a run whose end leaves it the time for some.
_WORDS = {
    "kill_gcs": "no longer answers; what was measured is kept in",
    "kill_head": "no longer answers; what was measured is kept in",
    "no_room": "the ledger cannot be written: File too large",
}
_MOST_EXTRA_RUNS = 6  # of the command, where a strike ended a run before its other blows could fall
_NO_PROCESS = 2**22 + 1  # a number that no process has
# Of Ray Train itself, one for all jobs of a cluster; it stays as long as the cluster does.
_OF_RAY = {"_AutoscalingCoordinatorActor"}


@dataclass
class Stage:
    """Where a chaos run takes place. `told` says what happened, in order."""

    folder: Path  # the working tree of the sweep
    module: str  # `python -m` this
    space: str
    sweep: str
    num_legs: int
    arguments: Sequence[str]
    server: Server | None = None  # of MLflow; without one it writes to a file
    variables: Mapping[str, str] = field(default_factory=dict)
    clock: Path | None = None  # the file whose length the calendar clock is behind; see tests/chaos/clock
    nodes_mark: str = ""
    nodes: Nodes | None = None
    told: list[str] = field(default_factory=list)
    _extra_runs: int = 0
    _marks: list[str] = field(default_factory=list)  # of the runs so far

    @property
    def ledger(self) -> Path:
        return self.folder / "mlruns/ledger" / self.space / self.sweep

    def command(self) -> list[str]:
        """The command under test."""
        return [sys.executable, "-m", self.module, *self.arguments, f"sweep={self.sweep}"]

    def environment(self, where: str, mark: str) -> dict[str, str]:
        """The command's environment; what it starts carries the mark."""
        address = self.nodes.ask("address") if where == "cluster" and self.nodes else "local"
        return command_environment(**{MARK: mark}, RAY_ADDRESS=address, **self._tracking(), **self.variables)

    def _tracking(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.server.address} if self.server else {}

    def perform(self, script: Script) -> None:
        """All runs of a script, and a last one in peace."""
        chance = random.Random(f"moments {script.seed}")
        for number, run in enumerate(script.runs):
            for kind in run.litter:
                self._litter(kind, chance)
            blows = list(run.blows)
            while blows:
                blows = self._run(number, run, blows, chance)
                if blows:
                    assert self.num_rows() < self.num_legs, f"the sweep was complete before {blows[0].kind}"
                    self._extra_runs += 1
                    assert self._extra_runs <= _MOST_EXTRA_RUNS, "runs end before their script does"
        if self.server is not None and self.server.process.poll() is not None:
            self.server.start()
        self._run(len(script.runs), Run(script.runs[-1].where, False, (), ()), [], chance)
        self.assert_nothing_is_left()

    def _run(self, number: int, run: Run, blows: list[Blow], chance: random.Random) -> list[Blow]:
        """The command once. Returns the blows that did not come to fall, because the run had ended."""
        mark = uuid.uuid4().hex
        marks = [mark, self.nodes_mark] if run.where == "cluster" else [mark]
        self._marks.append(mark)
        output = self.folder / f"run-{number}-{mark[:4]}.txt"
        with output.open("w") as log:
            driver = subprocess.Popen(
                self.command(), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
                env=self.environment(run.where, mark),
            )  # fmt: skip
        self._tell(f"run {number} on {run.where} Ray, {len(blows)} blows to fall: {output.name}")
        try:
            left = self._strike(driver, blows, marks, chance)
            struck = time.monotonic()
            code = driver.wait(timeout=_ENDING_SECONDS if blows and not left else _RUN_SECONDS)
        finally:
            driver.kill()
        text = output.read_text(encoding="utf-8")
        self._tell(f"run {number} ended with {code} after {time.monotonic() - struck:.0f} s; {self.num_rows()} rows")
        assert "Traceback" not in text, text
        # A strike may end a run (1: without its recorder, or with trials that could not run); the same command goes on.
        wanted = (0, 1) if left else (ENDS[blows[-1].kind],) if blows else (0,)
        assert code in wanted, text
        if blows and not left:
            assert _WORDS.get(blows[-1].kind, "") in (text.splitlines() or [""])[-1], text
            if blows[-1].kind == "kill_head" and self.nodes:
                self.nodes.ask("restart")
        if not (run.at_once and blows):
            self.assert_no_process_of(mark)
        return left

    def _strike(
        self, driver: subprocess.Popen[bytes], blows: list[Blow], marks: list[str], chance: random.Random
    ) -> list[Blow]:
        """Let the blows fall one by one. Returns those that the run did not live to see."""

        def alive() -> bool:
            return driver.poll() is None

        begun = self.num_rows()
        for number, blow in enumerate(blows):
            deadline = time.monotonic() + _RUN_SECONDS
            while self.num_rows() < max(blow.at, begun + 1) and alive():  # it is up, and its handlers are there
                assert time.monotonic() < deadline, f"{self.num_rows()} rows, and no more"
                time.sleep(0.05)
            time.sleep(blow.delay)
            told = self._blow(blow.kind, driver, marks, chance, alive) if alive() else None
            if told is None:
                return blows[number:]
            self._tell(f"at {self.num_rows()} rows: {told}")
        return []

    def _blow(
        self,
        kind: str,
        driver: subprocess.Popen[bytes],
        marks: list[str],
        chance: random.Random,
        alive: Callable[[], bool],
    ) -> str | None:
        """One blow. Returns what it was; None where the run ended before there was something to hit."""
        if kind in TITLES:
            return kill_one(marks, kind, chance, alive)
        if kind == "kill_raylet":
            return self._kill_raylet(marks, chance, alive)
        if kind == "no_room":
            return take_room(marks, alive)
        if kind == "clock_back":
            assert self.clock is not None
            os.truncate(self.clock, self.clock.stat().st_size + 3600)
        elif kind == "kill_head":
            assert self.nodes is not None
            self.nodes.ask("kill_head")
        elif kind == "stop_tracking":
            assert self.server is not None
            self.server.kill()
        elif kind == "start_tracking":
            assert self.server is not None
            self.server.start()
        elif kind == "interrupt_twice":
            driver.send_signal(signal.SIGINT)
            time.sleep(chance.uniform(0.0, 2.0))
            driver.send_signal(signal.SIGINT)
        else:
            signals = {"kill_driver": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
            driver.send_signal(signals[kind])
        return kind

    def _kill_raylet(self, marks: list[str], chance: random.Random, alive: Callable[[], bool]) -> str | None:
        """Kill the raylet of a node on which a group runs, and add another node."""
        nodes = self.nodes
        assert nodes is not None

        def busy() -> list[int]:
            parents = {parent(worker) for worker in victims(marks, "kill_worker")}
            return [raylet for raylet in nodes.ask("raylets") if raylet in parents]

        if not wait_for(busy, alive):
            return None
        raylet = chance.choice(busy() or nodes.ask("raylets"))
        os.kill(raylet, signal.SIGKILL)
        nodes.ask("add")
        return f"kill_raylet: process {raylet}; a node was added"

    def _litter(self, kind: str, chance: random.Random) -> None:
        """Put something into the ledger that is no row, or make a row unreadable."""
        files = sorted(self.ledger.glob("leg-*.parquet"))
        if kind == "foreign" or not files:
            self.ledger.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                pa.table({"some": ["thing", "else"]}), self.ledger / f"foreign-{chance.randrange(10**6)}.parquet"
            )
            self._tell("foreign: a file of another kind was put into the ledger")
            return
        file = chance.choice(files)
        content = file.read_bytes()
        begin = 4 + chance.randrange(len(content) // 4)
        if kind == "torn":
            file.write_bytes(content[:begin])
        elif kind == "garbled":
            damaged = bytes(255 - byte for byte in content[begin : begin + 64])
            file.write_bytes(content[:begin] + damaged + content[begin + 64 :])
        else:
            (file.parent / f".{file.stem}.{_NO_PROCESS}.writing").write_bytes(content[:begin])
        self._tell(f"{kind}: {file.name}")

    def num_rows(self) -> int:
        """The rows of the ledger, told from its files' names."""
        names = [file.name for file in self.ledger.glob("*.parquet")]
        merged = [re.search(r"^legs-.*-(\d+)\.parquet$", name) for name in names]
        return sum(int(one[1]) for one in merged if one) + sum(name.startswith("leg-") for name in names)

    def assert_no_process_of(self, mark: str) -> None:
        """No process that inherited this mark is left, but for those that end a minute later."""
        self._marks.append(mark)
        deadline = time.monotonic() + _DYING_SECONDS
        while left := [line.strip() for line in processes_of(mark).values() if not _LATE.match(line)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)

    def assert_nothing_is_left(self) -> None:
        """No process at all is left of the runs so far."""
        deadline = time.monotonic() + _LATE_SECONDS
        while left := [line.strip() for mark in self._marks for line in processes_of(mark).values()]:
            assert time.monotonic() < deadline, left
            time.sleep(0.5)

    def assert_cluster_is_empty(self) -> None:
        """No actor and no placement group is left on the cluster."""
        assert self.nodes is not None
        deadline = time.monotonic() + _DYING_SECONDS
        while set((state := self.nodes.ask("state"))["actors"]) - _OF_RAY or state["placement_groups"]:
            assert time.monotonic() < deadline, state
            time.sleep(0.5)

    def check_tracking(self, rows: list[dict[str, Any]]) -> None:
        """After `raybench sync`, MLflow has each row as a run, once."""
        done = self._other_command("sync")
        assert done.returncode == 0, done.stderr
        uri = self.server.address if self.server else f"sqlite:///{self.folder}/mlflow.db"
        check_runs_equal_rows(MlflowClient(uri), rows, self.space)

    def check_verified(self) -> None:
        """`raybench verify` finds nothing wrong."""
        done = self._other_command("verify")
        assert done.returncode == 0, done.stdout

    def _other_command(self, name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"raybench.{name}", str(self.ledger)], cwd=self.folder,
            capture_output=True, text=True, env=command_environment(**self._tracking()), timeout=300, check=False,
        )  # fmt: skip

    def _tell(self, text: str) -> None:
        self.told.append(f"{time.strftime('%H:%M:%S')} {text}")
        print(self.told[-1], flush=True)
