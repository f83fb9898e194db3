"""The trial's side of telemetry: one sampler process a node, which is told where windows begin and end.

Every exchange with a sampler is outside the timed steps. A sampler that cannot start, dies or does not answer ends no
leg: its reading is None with a reason, and the next leg starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from raybench.telemetry.contamination import contamination
from raybench.telemetry.window import NodeReading
from raybench.training.ranks import Ranks

_ANSWER_SECONDS = 20.0  # time for python to start on a busy machine; otherwise an answer takes milliseconds


@dataclass(frozen=True)
class SamplerReport:
    """One node's sampler's report on a leg."""

    node: str
    reading: NodeReading | None  # None without a window or a sampler
    missing: tuple[str, ...] = ()  # missing instruments of the node
    lost: str | None = None  # why there is no sampler


@dataclass(frozen=True)
class TelemetryReading:
    """All nodes' sampler reports on a leg, combined; the same on every rank."""

    nodes: list[NodeReading] | None = None  # None with telemetry off
    energy_joules: float | None = None  # of all the trial's GPUs, from their own counters
    foreign_cpu_cores: float | None = None  # of the node with the most
    contaminated: list[str] | None = None  # empty: clean; None: unknown
    missing: list[str] | None = None  # wanted instruments that are missing; None with telemetry off


class Telemetry:
    """One rank's handle. Only the first rank of each node has a sampler; `gather` gives every rank the reading."""

    def __init__(self, ranks: Ranks, wanted: bool) -> None:
        self._ranks = ranks
        self._wanted = wanted
        self._sampler: SamplerProcess | None = None
        everyone = ranks.gather((node_name(), os.getpid(), _gpu_uuid(ranks.device))) if wanted else []
        mine = [(rank, pid, gpu) for rank, (node, pid, gpu) in enumerate(everyone) if node == node_name()]
        if mine and mine[0][0] == ranks.rank:
            gpus = sorted({gpu for *_, gpu in mine if gpu is not None})
            self._sampler = SamplerProcess([pid for _, pid, _ in mine], gpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sampler is not None:
            self._sampler.close()

    def begin_leg(self) -> None:
        """Discard what an earlier leg left, and make sure that the sampler runs."""
        if self._sampler is not None:
            self._sampler.revive()
            self._sampler.ask("report")

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """Sample everything inside; a leg may have several windows."""
        if self._sampler is None:
            yield
            return
        self._sampler.ask("begin")
        try:
            yield
        finally:
            self._sampler.ask("end")

    def gather(self) -> TelemetryReading:
        """The reading for the leg's windows; every rank calls it."""
        if not self._wanted:
            return TelemetryReading()
        own = self._sampler.report() if self._sampler is not None else None
        return combined([report for report in self._ranks.gather(own) if report is not None])


def combined(reports: Sequence[SamplerReport]) -> TelemetryReading:
    """One reading from those of all nodes."""
    readings = [replace(report.reading, node=report.node) for report in reports if report.reading]
    missing = [text for report in reports for text in report.missing]
    missing += [f"telemetry ({report.lost})" for report in reports if not report.reading and report.lost]
    whole = len(readings) == len(reports)
    energies = [gpu.energy_joules for reading in readings for gpu in reading.gpus]
    foreign = [reading.host.foreign_cores for reading in readings]
    reasons = contamination(readings)
    return TelemetryReading(
        nodes=readings,
        energy_joules=_if_known(sum, energies) if whole else None,
        foreign_cpu_cores=_if_known(max, foreign) if whole else None,
        contaminated=reasons if whole or reasons else None,
        missing=list(dict.fromkeys(missing)),
    )


def _if_known(together: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    """The combined value; None where there is none, or one value is unknown."""
    known = [value for value in values if value is not None]
    return together(known) if known and len(known) == len(values) else None


class SamplerProcess:
    """This node's sampler as a child process, with the two pipes to it."""

    def __init__(self, pids: Sequence[int], gpus: Sequence[str]) -> None:
        self._request = json.dumps({"pids": list(pids), "gpus": list(gpus)})
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self.lost: str | None = None  # why there is no sampler now
        self._start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def revive(self) -> None:
        """Start another sampler if the last one was lost."""
        if self._process is None:
            self._start()

    def ask(self, command: str) -> dict[str, Any] | None:
        """The sampler's answer; None where it has none or is lost."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._give_up("the sampler's process died")
            return None
        answer = self._read()
        return answer if isinstance(answer, dict) else None

    def report(self) -> SamplerReport:
        """The sampler's report on the windows since the last report."""
        answer = self.ask("report") or {}
        reading = NodeReading.from_json(answer["reading"]) if answer else None
        return SamplerReport(node_name(), reading, tuple(answer.get("missing", ())), self.lost)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> None:
        self._rest, self.lost = b"", None
        command = [sys.executable, "-m", "raybench.telemetry", self._request]
        source = str(Path(__file__).parents[3])  # the same raybench as this process's
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
            )
        except OSError as error:
            self.lost = f"the sampler cannot be started: {error}"
            return
        self._read()  # `ready`

    def _read(self) -> Any:
        """The sampler's next line, parsed; None where it does not come."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + _ANSWER_SECONDS
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self._give_up(f"the sampler did not answer within {_ANSWER_SECONDS:.0f} s")
                return None
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                self._give_up("the sampler's process died")
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _give_up(self, why: str) -> None:
        self.lost = why
        self.close()


def node_name() -> str:
    """This node's name with its PID namespace: two containers on one machine may have the same name."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _gpu_uuid(device: torch.device) -> str | None:
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
