"""The trial's side of telemetry: one sampler process a node, told where windows begin and end, asked afterwards.

Every exchange with a sampler stands outside the timed steps. A sampler that cannot be started, dies or does not answer
ends no leg: its reading is None, the reason is named, and the next leg starts another.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from raybench.telemetry.contamination import contamination
from raybench.training.ranks import Ranks

_ANSWER_SECONDS = 20.0  # to start python on a busy machine; an answer takes milliseconds else


@dataclass(frozen=True)
class TelemetryReading:
    """What the samplers of all nodes say of a leg; the same on every rank."""

    nodes: list[dict[str, Any]] | None = None  # None with telemetry off
    energy_joules: float | None = None  # of all the trial's GPUs, by their own counters
    foreign_cpu_cores: float | None = None  # of the node that had most
    contaminated: list[str] | None = None  # empty: clean; None: not known
    missing: list[str] | None = None  # instruments that were wanted and are not there; None with telemetry off


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
        """Forget what an earlier leg left behind, and see to it that the sampler runs."""
        if self._sampler is not None:
            self._sampler.revive()
            self._sampler.ask("report")

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """What is inside is sampled; a leg may have several."""
        if self._sampler is None:
            yield
            return
        self._sampler.ask("begin")
        try:
            yield
        finally:
            self._sampler.ask("end")

    def gather(self) -> TelemetryReading:
        """The reading of the leg's windows; every rank calls it."""
        if not self._wanted:
            return TelemetryReading()
        own = (self._sampler.ask("report"), self._sampler.lost) if self._sampler is not None else None
        return combined([one for one in self._ranks.gather((node_name(), own)) if one[1] is not None])


def combined(nodes: Sequence[tuple[str, tuple[dict[str, Any] | None, str | None]]]) -> TelemetryReading:
    """One reading from those of each node: (node's name, (its sampler's reading or None, why it was lost or None))."""
    readings = [{"node": name, **reading} for name, (reading, _) in nodes if reading]
    missing = [text for reading in readings for text in reading.pop("missing")]
    missing += [f"telemetry ({lost})" for _, (reading, lost) in nodes if not reading and lost]
    whole = len(readings) == len(nodes)
    energies = [gpu["energy_joules"] for reading in readings for gpu in reading["gpus"]]
    foreign = [reading["host"]["foreign_cores"] for reading in readings]
    reasons = contamination(readings)
    return TelemetryReading(
        nodes=readings,
        energy_joules=sum(energies) if whole and energies and None not in energies else None,
        foreign_cpu_cores=max(foreign) if whole and foreign and None not in foreign else None,
        contaminated=reasons if whole or reasons else None,
        missing=list(dict.fromkeys(missing)),
    )


class SamplerProcess:
    """The sampler of this node as a child process, and the two pipes to it."""

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
        """Start another where the last one was lost."""
        if self._process is None:
            self._start()

    def ask(self, command: str) -> dict[str, Any] | None:
        """The sampler's answer; None where it has none to give, or is lost."""
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
        source = str(Path(__file__).parents[2])  # the same raybench, wherever this process found it
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
        """The next line of the sampler, parsed; None where it does not come."""
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
    """This node, with its process numbers' namespace: two containers of one machine may bear one name."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _gpu_uuid(device: torch.device) -> str | None:
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
