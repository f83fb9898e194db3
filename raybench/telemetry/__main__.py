"""The sampler: `python -m raybench.telemetry '{"pids": [...], "gpus": [...]}'`, started by the first rank of a node.

It says `ready`, then answers each line of its standard input with a line of JSON: `begin` and `end` bound a window,
in which it looks at the node 16 times a second; `report` hands over what the windows since the last report held. It
ends when its input does, or its parent.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

from raybench.telemetry.host import Host
from raybench.telemetry.nvml import GpuSample, name_once, open_gpus, open_library
from raybench.telemetry.window import Sample, Window, summarize

PERIOD_SECONDS = 0.06
_ASK_RARELY = 10  # samples between two questions that cost more: processor clocks, processes on a GPU
_IDLE_SECONDS = 1.0  # between two looks whether the parent lives


class Sampler:
    """Holds the instruments of one node and the windows of one leg."""

    def __init__(self, pids: list[int], uuids: list[str], library: Any | None, missing: list[str]) -> None:
        self.missing = missing
        self._pids = pids
        self._host = Host(pids)
        self.missing += [text for text in self._host.missing if text not in self.missing]
        self._gpus = open_gpus(uuids, library, self.missing)
        self._windows: list[Window] = []
        self._open: Window | None = None
        self._energies: list[float | None] = []
        self._cpu_seconds = 0.0

    @property
    def sampling(self) -> bool:
        return self._open is not None

    def begin(self) -> None:
        """Open a window."""
        self._host.find_children()
        self._open = Window([], self._host.resolution_seconds())
        self._open.foreign_processes = [None] * len(self._gpus)
        self._energies = [gpu.energy_joules() for gpu in self._gpus]
        self._cpu_seconds = time.process_time()
        self.look()

    def look(self) -> None:
        """Take one sample of the open window."""
        assert self._open is not None
        samples = self._open.samples
        rarely = len(samples) % _ASK_RARELY == 0
        gpus: tuple[GpuSample, ...] = tuple(gpu.sample() for gpu in self._gpus)
        frequency = self._host.frequency_mhz() if rarely else None
        samples.append(Sample(time.monotonic(), self._host.read(), frequency, gpus))
        if rarely:
            seen = [gpu.foreign_processes(self._pids) for gpu in self._gpus]
            most = zip(self._open.foreign_processes, seen, strict=True)
            self._open.foreign_processes = [new if old is None or new is None else max(old, new) for old, new in most]

    def end(self) -> None:
        """Close the window."""
        assert self._open is not None
        self._open.sampler_seconds = time.process_time() - self._cpu_seconds
        self._host.find_children()
        self.look()
        after = [gpu.energy_joules() for gpu in self._gpus]
        self._open.energy_joules = [
            None if first is None or last is None else last - first
            for first, last in zip(self._energies, after, strict=True)
        ]
        self._windows.append(self._open)
        self._open = None

    def report(self) -> dict[str, Any]:
        """The `reading` of the windows since the last report, which are forgotten, and what is `missing`; `{}` where
        there was no window."""
        windows, self._windows = self._windows, []
        if not windows:
            return {}
        reading = summarize(windows, os.cpu_count() or 1, [(gpu.uuid, gpu.name) for gpu in self._gpus])
        if reading.host.foreign_cores is None:
            name_once(self.missing, "foreign CPU use (this system shows no CPU times of the whole host)")
        return {"reading": asdict(reading), "missing": list(self.missing)}


def main(argument: str) -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the input's end ends this
    parent = os.getppid()
    request = json.loads(argument)
    missing: list[str] = []
    library = open_library(missing) if request["gpus"] else None
    sampler = Sampler(request["pids"], request["gpus"], library, missing)
    _answer("ready")
    next_look = 0.0
    while True:
        wait = max(0.0, next_look - time.monotonic()) if sampler.sampling else _IDLE_SECONDS
        if select.select([sys.stdin], [], [], wait)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            _answer(_obey(sampler, line.strip()))
            next_look = time.monotonic() + PERIOD_SECONDS
        elif sampler.sampling:
            sampler.look()
            next_look = max(next_look + PERIOD_SECONDS, time.monotonic())
        elif os.getppid() != parent:
            return


def _obey(sampler: Sampler, command: str) -> Any:
    match command:
        case "begin":
            return sampler.begin()
        case "end":
            return sampler.end()
        case "report":
            return sampler.report()
    raise ValueError(f"unknown command {command!r}")


def _answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
