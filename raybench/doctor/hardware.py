"""The machine: accelerators, cores and memory as this process may use them, disk, open files."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import psutil

from raybench.cluster.surroundings import LONGEST_FOLDER, folder_problem, session_folder
from raybench.doctor.finding import Finding
from raybench.machine.answers import ProbeAnswer
from raybench.machine.limits import cpu_limit, memory_left, memory_limit
from raybench.stores.storage import AnyPath, write_problem

GIB = 2**30
_MIN_MEMORY = 2 * GIB  # Ray, MLflow and two workers with torch take about 1.5 GiB before any model
_MIN_SHM = GIB
_MIN_DISK, _LOW_DISK = GIB // 2, 5 * GIB
_FULL = 0.95  # from here on Ray's raylet takes a disk for full
_MIN_FILES = 1024


def accelerators(answer: ProbeAnswer) -> Finding:
    """GPUs that torch can use, and those that it should but cannot."""
    torch = answer.get("torch", {})
    gpus = torch.get("gpus", [])
    there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if gpus:
        kinds = list(dict.fromkeys(gpus))
        names = ", ".join(f"{gpus.count(name)} x {name}" for name in kinds)
        if len(kinds) > 1:
            return Finding(
                "accelerators", "warning", f"{names}; CUDA {torch['cuda']}: a trial on unlike GPUs is refused",
                "show Ray one kind alone: CUDA_VISIBLE_DEVICES=0,1 (nvidia-smi -L lists them) before `ray start`",
            )  # fmt: skip
        return Finding("accelerators", "ok", f"{names}; CUDA {torch['cuda']}")
    if there:
        why = "is built for the CPU alone" if torch.get("cuda") is None else f"(CUDA {torch['cuda']}) cannot use them"
        return Finding(
            "accelerators", "warning", f"{there} NVIDIA GPUs, but torch {torch.get('version', '')} {why}",
            "install a torch built for CUDA, or a driver that fits it (nvidia-smi shows the driver's CUDA version)",
        )  # fmt: skip
    return Finding("accelerators", "ok", "none; sweeps run on the CPU (over gloo)")


def cores() -> Finding:
    """Cores that are there, and those that this process may use: Ray counts the former."""
    there, usable = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    quota = cpu_limit()
    usable_now = min(usable, quota) if quota else usable
    if usable_now < there - 0.5:
        return Finding(
            "cores", "warning", f"{there} are there, {usable_now:g} may be used (a container's quota, or taskset)",
            f"start Ray with --num-cpus={max(1, int(usable_now))}, so that it does not plan with all of them",
        )  # fmt: skip
    return Finding("cores", "ok", str(there))


def memory() -> Finding:
    """Memory that is free for workers and models."""
    free, total = memory_left()
    limit = memory_limit()
    limited = " (the limit of its control group, as a container's)" if limit is not None else ""
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free{limited}"
    if free < _MIN_MEMORY:
        remedy = "raise the limit" if limit is not None and limit < _MIN_MEMORY else "end what uses it"
        why = f"{remedy}: Ray and two workers take about 1.5 GiB before any model"
        return Finding("memory", "warning", found, why)
    return Finding("memory", "ok", found)


def shared_memory() -> Finding:
    """/dev/shm, where Ray keeps its objects and loaders hand over batches; containers often have 64 MiB."""
    remedy = "docker run --shm-size=8g, or mount -o remount,size=8G /dev/shm"
    try:
        stats = os.statvfs("/dev/shm")
        with tempfile.TemporaryFile(dir="/dev/shm"):
            pass
    except OSError as error:
        return Finding("shared memory", "error", f"/dev/shm cannot be used: {error}", remedy)
    size, free = stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize
    found = f"/dev/shm: {free / GIB:.2f} of {size / GIB:.2f} GiB free"
    return (
        Finding("shared memory", "warning", found, remedy) if free < _MIN_SHM else Finding("shared memory", "ok", found)
    )


def disks(results: AnyPath) -> list[Finding]:
    """Room where the results go and where Ray keeps its session, and that the results can be written."""
    findings = [_writable(results)]
    places = [("disk of the results", results)] if isinstance(results, Path) else []
    for name, folder in (*places, ("disk of Ray's session", Path(tempfile.gettempdir()))):
        usage = psutil.disk_usage(str(_existing(folder)))
        found = f"{usage.free / GIB:.1f} GiB free at {_existing(folder)}"
        remedy = "make room, or put it elsewhere: results=FOLDER for results, TMPDIR for Ray's session"
        if usage.free < _MIN_DISK:
            findings.append(Finding(name, "error", found, remedy))
        elif usage.free < _LOW_DISK or usage.free < (1 - _FULL) * usage.total:
            findings.append(Finding(name, "warning", found, remedy))
        else:
            findings.append(Finding(name, "ok", found))
    return findings


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())


def _writable(results: AnyPath) -> Finding:
    """Whether a ledger could be written: a file made, flushed to disk and renamed, or an object put into a store."""
    if problem := write_problem(results):
        remedy = "make it writable, or name another place: results=FOLDER or a URI (raybench.sweep takes it too)"
        return Finding("results folder", "error", problem, remedy)
    return Finding("results folder", "ok", f"{results.absolute()} can be written")


def open_files() -> Finding:
    """How many files a process may have open. Ray raises the soft limit to the hard one by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)}, at most {_limit(hard)}"
    if hard != resource.RLIM_INFINITY and hard < _MIN_FILES:
        return Finding("open files", "error", found, "ulimit -n 65536 (as root, or in /etc/security/limits.conf)")
    if hard != resource.RLIM_INFINITY and hard < 8 * _MIN_FILES:
        return Finding("open files", "warning", found, "Ray asks for 65536 on a large machine: ulimit -n 65536")
    return Finding("open files", "ok", found)


def _limit(value: int) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else str(value)


def temporary_folder() -> Finding:
    """The path under which Ray makes its sockets, whose length Unix limits."""
    if problem := folder_problem():
        what, _, remedy = problem.rpartition("; ")
        return Finding(
            "temporary folder", "error", what, f"{remedy}, or a folder of at most {LONGEST_FOLDER} characters"
        )
    return Finding("temporary folder", "ok", session_folder()[1])
