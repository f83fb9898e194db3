"""What joins this machine's processes, its host and accelerator, its host and disk: measured where it is asked for."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from raybench.child import ask_child
from raybench.doctor.finding import Finding
from raybench.machine.answers import AdamRate, LinksAnswer
from raybench.machine.links import LinkRate
from raybench.text import counted

_SECONDS: Final = 300.0  # of which two minutes may go into an operator that has to be built anew
_FILE_BYTES, _BLOCK_BYTES = 2**28, 2**23
_COLLECTIVES: Final = {"all_reduce": "all-reduce", "all_gather": "all-gather", "reduce_scatter": "reduce-scatter"}


def measured() -> list[Finding]:
    """Links between processes, copies to and from an accelerator, the rate of CPU Adam."""
    return told(cast("LinksAnswer", ask_child(["raybench.training.probes.links_probe"], _SECONDS)))


def told(answer: LinksAnswer) -> list[Finding]:
    """The findings of what the child process answered."""
    if "error" in answer:
        return [Finding("links", "warning", f"could not be measured: {answer['error']}", "correct what it names")]
    links: Mapping[str, Any] = answer.get("links") or {}
    carried = {name: [LinkRate(**size) for size in sizes] for name, sizes in links.get("rates", {}).items()}
    findings = []
    rates = [f"{name} {_fastest(carried[key])}" for key, name in _COLLECTIVES.items() if carried.get(key)]
    if rates:
        between = f"{answer['world']} processes over {answer['backend']}"
        findings.append(Finding("links", "ok", f"{between}: {', '.join(rates)} (bus bandwidth)"))
    if joined := Counter(pair.partition(" ")[2] for pair in answer.get("gpu_links") or []):
        pairs = [f"{counted(number, 'pair')} {how}" for how, number in joined.most_common()]
        findings.append(Finding("between GPUs", "ok", ", ".join(pairs)))
    findings += [Finding("links", "warning", text, "the message is the backend's") for text in links.get("missing", [])]
    copies = [f"{_fastest(carried[key])} {way}" for key, way in (("to_device", "to it"), ("from_device", "from it"))
              if carried.get(key)]  # fmt: skip
    findings.append(
        Finding("host and accelerator", "ok", f"{', '.join(copies)}, pinned" if copies else "no accelerator")
    )
    findings.append(_adam(answer.get("adam") or {}))
    return findings


def _adam(adam: AdamRate) -> Finding:
    if "missing" in adam:
        return Finding("CPU Adam", "warning", adam["missing"], "python -m raybench.doctor --build-ops builds it")
    rate = adam["parameters_per_second"]
    found = f"{rate / 1e6:,.0f} million parameters a second with {adam['threads']} threads"
    return Finding("CPU Adam", "ok", f"{found}: {1e9 / rate:.2g} s a step for each billion that is offloaded")


def disk(folder: Path) -> Finding:
    """What the disk of an offload folder (`nvme_path`) takes and gives, past the system's cache."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
            block = os.urandom(_BLOCK_BYTES)
            begun = time.perf_counter()
            for _ in range(_FILE_BYTES // _BLOCK_BYTES):
                file.write(block)
            os.fsync(file.fileno())
            written = time.perf_counter()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            begun_reading = time.perf_counter()
            while file.read(_BLOCK_BYTES):
                pass
            read = time.perf_counter()
    except OSError as error:
        return Finding("offload disk", "error", f"{folder}: {error.strerror}", "name another folder, or make room")
    rates = [_rate(_FILE_BYTES / seconds) for seconds in (written - begun, read - begun_reading)]
    return Finding("offload disk", "ok", f"{folder}: {rates[0]} written, {rates[1]} read, one thread")


def _fastest(sizes: list[LinkRate]) -> str:
    return _rate(max(size.busbw for size in sizes))


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.3g} GB/s"
