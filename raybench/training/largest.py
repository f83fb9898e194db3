"""The largest micro-batch that fits: by doubling, then bisection, in processes that may die.

An arm's search has its own processes beside the group's, one a rank. They run a few real steps of the arm with its
engine at each size (`raybench.training.batch_probe`). A size does not fit when a process runs out of memory, is
killed, or exceeds the setting's `memory_limit`: on a GPU the allocator is limited to it, on a CPU the resident memory
is checked. The processes continue with the next size. They are restarted if they died, or if one of several ran out of
memory while the others waited for it. Every rank calls the functions here and gets the same answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import psutil

from raybench.declare.plan import Leg, Trial
from raybench.errors import FailureKind, ProbeFailed
from raybench.ledger.batches import LargestBatch, Probe
from raybench.machine.fingerprint import Fingerprint
from raybench.training.command import signal_name
from raybench.training.ranks import Ranks
from raybench.training.tasks import build_task

_START = 2  # first micro-batch tried: BatchNorm cannot train on one value
_LOOK_SECONDS = 0.1
_SETTLE_SECONDS = 3.0  # after a process failed, wait to see whether another one died of memory


@dataclass(frozen=True)
class ProbeRequest:
    """A request to a rank's process of a search, as a line of JSON."""

    trial: dict[str, Any]  # a `Trial` as JSON
    leg_id: str
    micro_batch: int
    device: str
    distributed: bool
    answer: str  # the file for the `ProbeState`


@dataclass(frozen=True)
class ProbeState:
    """The state of one rank's process at one size."""

    state: Literal["running", "fits", "out of memory", "failed"]
    peak_bytes: int | None = None
    message: str = ""  # why it did not fit, or failed
    kind: FailureKind = "error"  # of the failure


class LargestSearch:
    """The largest batch of each arm of a trial, searched for when first asked for.

    `known` holds the results of the setting's earlier trials, by arm (`Measurement.batch_probes`). They are used if
    found on a machine like this one, so that repeats compare equal things.
    """

    def __init__(
        self, trial: Trial, ranks: Ranks, machine: Fingerprint, known: Mapping[str, LargestBatch] | None = None
    ) -> None:
        self._trial, self._ranks = trial, ranks
        own = {arm: found for arm, found in (known or {}).items() if found.machine == machine}
        self._found: dict[str, LargestBatch] = ranks.gather(own)[0]  # rank 0's for all ranks
        self._machine = machine
        self._failed: dict[str, ProbeFailed] = {}

    def of(self, leg: Leg) -> LargestBatch:
        """The largest batch of the leg's arm. Raises ProbeFailed."""
        name = leg.arm_name
        if name in self._failed:
            raise self._failed[name]
        if name not in self._found:
            try:
                self._found[name] = self._seek(leg)
            except ProbeFailed as error:
                self._failed[name] = error
                raise
        return self._found[name]

    def _seek(self, leg: Leg) -> LargestBatch:
        limit = leg.setting.memory_limit
        if limit is None and self._ranks.device.type == "cpu":
            raise ProbeFailed("invalid_config", "batch_size max on a CPU needs memory_limit, the bytes of a worker")
        others = [found.micro_batch for found in self._found.values() if found.micro_batch]
        start = others[-1] if others else _START  # another arm's result is a good first guess
        most = build_task(leg.setting).num_samples(train=True) // leg.setting.workers
        with Prober(self._trial, leg, self._ranks) as prober:
            size, probes = find_largest(prober.probe, most, start)
        return LargestBatch(size or None, limit, self._machine, tuple(probes))


def find_largest(probe: Callable[[int], Probe], most: int, start: int = _START) -> tuple[int, list[Probe]]:
    """(largest size from 1 to `most` that fits, 0 where none does; the probes in order).

    From `start`, doubles while it fits (or halves until it does), then bisects. Assumes that a size fits if a larger
    one does.
    """
    fits, fails, size = 0, most + 1, min(start, most)
    probes: list[Probe] = []
    while fits + 1 < fails:
        probes.append(probe(size))
        if probes[-1].fits:
            fits = size
        else:
            fails = size
        size = min(2 * fits, most) if fails > most else (fits + fails) // 2
    return fits, probes


class Prober:
    """One rank's process of an arm's search, kept between probes while it lives. A context manager that ends it."""

    def __init__(self, trial: Trial, leg: Leg, ranks: Ranks) -> None:
        self._trial, self._leg, self._ranks = trial, leg, ranks
        self._child: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="raybench-probe-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def probe(self, micro_batch: int) -> Probe:
        """Run a few steps of the leg with this micro-batch. Raises ProbeFailed."""
        child = self._child = self._child or _start(self._ranks)
        answer = Path(self._folder.name) / f"{micro_batch}.json"
        self._ask(child, micro_batch, answer)
        limit, seconds = self._leg.setting.memory_limit, self._trial.leg_timeout_seconds
        states = _watch(child, answer, limit, seconds, self._ranks)
        together = self._ranks.world == 1 or all(state.state == "fits" for state in states)
        if not all(self._ranks.gather(together and answer.exists() and child.poll() is None)):
            self._end()
        return _judged(micro_batch, states)

    def _ask(self, child: subprocess.Popen[bytes], micro_batch: int, answer: Path) -> None:
        request = ProbeRequest(
            trial=self._trial.model_dump(mode="json"),
            leg_id=self._leg.leg_id,
            micro_batch=micro_batch,
            device=str(self._ranks.device),
            distributed=self._ranks.control is not None,
            answer=str(answer),
        )
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died, which the next look notices
            child.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            child.stdin.flush()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def _judged(micro_batch: int, states: list[ProbeState]) -> Probe:
    """The combined result of the ranks' states. Raises ProbeFailed."""
    where = "" if len(states) == 1 else "rank {}: "
    for word in ("out of memory", "failed"):
        for rank, state in enumerate(states):
            if state.state == word:
                message = where.format(rank) + state.message
                if word == "failed":
                    raise ProbeFailed(state.kind, f"at a micro-batch of {micro_batch}: {message}")
                return Probe(micro_batch, False, state.peak_bytes, message)
    return Probe(micro_batch, True, max(state.peak_bytes or 0 for state in states), None)


def _start(ranks: Ranks) -> subprocess.Popen[bytes]:
    """Start this rank's process of a search; rank 0 chooses the address where they meet."""
    address, port = ranks.gather(_meeting_point())[0]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC_")}
    variables |= {
        "MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.world),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    command = [sys.executable, "-m", "raybench.training.batch_probe"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, env=variables)


def _meeting_point() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("", 0))
        return os.environ.get("MASTER_ADDR", "127.0.0.1"), int(free.getsockname()[1])


def _watch(
    child: subprocess.Popen[bytes], answer: Path, limit: int | None, seconds: float, ranks: Ranks
) -> list[ProbeState]:
    """Every rank's state once all processes have answered, one is out of memory, or one cannot answer. Never raises."""
    on_cpu = ranks.device.type == "cpu"
    deadline, settled = time.monotonic() + seconds, None
    own = ProbeState("running")
    while True:
        if own.state == "running":
            own = _state(child, answer, limit if on_cpu else None)
            if own.state == "running" and time.monotonic() > deadline:
                own = ProbeState("failed", message=f"still running after {seconds:.0f} s", kind="timeout")
        states = ranks.gather(own)
        if all(one.state == "fits" for one in states):
            return states
        if any(one.state == "out of memory" for one in states):
            return states
        if any(one.state == "failed" for one in states):
            settled = settled or time.monotonic() + _SETTLE_SECONDS
        over = ranks.gather(settled is not None and time.monotonic() > settled)[0]
        if over or all(one.state != "running" for one in states):
            return states
        time.sleep(_LOOK_SECONDS)


def _state(child: subprocess.Popen[bytes], answer: Path, limit: int | None) -> ProbeState:
    """The state of this rank's process; one over its limit is killed."""
    if limit is not None and (resident := _resident_bytes(child.pid)) > limit:
        child.kill()
        return _too_large(resident, limit)
    code = child.poll()
    if not answer.exists():
        if code is None:
            return ProbeState("running")
        if code == -signal.SIGKILL:
            return ProbeState("out of memory", message="its process was killed, as happens where memory is full")
        how = f"died of {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return ProbeState("failed", message=f"its process {how}", kind="crashed")
    said = ProbeState(**json.loads(answer.read_text(encoding="utf-8")))
    if said.state == "fits" and limit is not None and (said.peak_bytes or 0) > limit:
        return _too_large(said.peak_bytes or 0, limit)
    return said


def _too_large(num_bytes: int, limit: int) -> ProbeState:
    message = f"{num_bytes / 2**20:,.0f} MiB resident, and the limit is {limit / 2**20:,.0f} MiB"
    return ProbeState("out of memory", num_bytes, message)


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
