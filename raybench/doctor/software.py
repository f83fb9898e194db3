"""Python, the compiler, the libraries and whether they fit each other, DeepSpeed's operators."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import cast

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from raybench.child import ask_child
from raybench.doctor.finding import Finding
from raybench.machine.answers import Library, ProbeAnswer
from raybench.machine.installed import installed_version

_PROBE_SECONDS = 60.0
_BUILD_SECONDS = 900.0
_CORE = ("torch", "torchvision", "deepspeed", "ray", "mlflow", "timm")
_WITH_RUN = {"extra": "run"}  # what sweeps need
INSTALL = "pip install 'raybench[run]' in a fresh virtual environment, with constraints.txt where you have it"


def python() -> Finding:
    """The interpreter: 64 bits, and new enough for the raybench that is installed."""
    found = f"{platform.python_version()} at {sys.executable}"
    asked = _requires_python()
    if platform.python_version() not in asked:
        return Finding("Python", "error", found, f"raybench needs Python {asked}")
    if struct.calcsize("P") != 8:
        return Finding("Python", "error", f"{found}, 32 bits", "torch exists for 64-bit Python only")
    return Finding("Python", "ok", found)


def compiler(ops_built: bool) -> Finding:
    """A C++ compiler, without which DeepSpeed cannot build its operators."""
    path = next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)
    if path is None:
        return _needed_for_ops(
            "C++ compiler",
            "none on PATH",
            ops_built,
            "apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora)",
        )
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("C++ compiler", "error", f"{path} does not run: {error}", "install g++ anew")
    return Finding("C++ compiler", "ok", f"{answer.stdout.splitlines()[0]} at {path}")


def ninja(ops_built: bool) -> Finding:
    """ninja, which drives the build of DeepSpeed's operators; workers look beside the interpreter, too."""
    beside = Path(sys.executable).parent / "ninja"
    path = shutil.which("ninja") or (str(beside) if beside.exists() else None)
    if path is None:
        return _needed_for_ops("ninja", "not found", ops_built, "pip install ninja")
    return Finding("ninja", "ok", path)


def _needed_for_ops(name: str, found: str, ops_built: bool, remedy: str) -> Finding:
    if ops_built:
        return Finding(name, "warning", f"{found}; the operators of DeepSpeed are built already", remedy)
    return Finding(name, "error", f"{found}: DeepSpeed builds its operators on first use", remedy)


def versions() -> list[Finding]:
    """The libraries that raybench names, in versions that it and torchvision ask for."""
    if all(installed_version(name) is None for name in _CORE):
        found = f"{', '.join(_CORE)} are not installed: ledgers can be read here, sweeps cannot run"
        return [Finding("packages", "error", found, INSTALL)]
    findings = []
    asked: dict[str, list[Requirement]] = {name: [] for name in _CORE}
    for dist in ("raybench", "torchvision", "deepspeed"):
        for text in _requires(dist):
            requirement = Requirement(text)
            if requirement.name in asked and (requirement.marker is None or requirement.marker.evaluate(_WITH_RUN)):
                asked[requirement.name].append(requirement)
    for name, requirements in asked.items():
        version = installed_version(name)
        if version is None:
            findings.append(Finding(name, "error", "not installed", INSTALL))
            continue
        unfit = [r for r in requirements if Version(version.partition("+")[0]) not in r.specifier]
        if unfit:
            wants = ", ".join(f"{name}{r.specifier}" for r in unfit)
            findings.append(Finding(name, "error", f"{version}, where {wants} is asked for", INSTALL))
        else:
            findings.append(Finding(name, "ok", version))
    return findings


def _requires(dist: str) -> list[str]:
    try:
        return metadata.requires(dist) or []
    except metadata.PackageNotFoundError:
        return []  # said of the library itself, or raybench runs from a source tree


def _requires_python() -> SpecifierSet:
    try:
        return SpecifierSet(str(metadata.metadata("raybench").json.get("requires_python", "")))
    except metadata.PackageNotFoundError:
        return SpecifierSet("")


def probe(build_ops: bool) -> ProbeAnswer:
    """What torch and DeepSpeed say in a process of their own."""
    arguments = ["raybench.training.probes.probe", *(["--build-ops"] if build_ops else [])]
    return cast("ProbeAnswer", ask_child(arguments, _BUILD_SECONDS if build_ops else _PROBE_SECONDS))


def imports(answer: ProbeAnswer) -> list[Finding]:
    """Whether torch, torchvision and DeepSpeed can be imported at all."""
    if "error" in answer:
        return [Finding("imports", "error", f"torch or DeepSpeed cannot be asked: {answer['error']}", INSTALL)]
    asked: dict[str, Library] = {
        "torch": answer.get("torch", {}),
        "torchvision": answer.get("torchvision", {}),
        "deepspeed": answer.get("deepspeed", {}),
    }
    installed = [name for name in asked if installed_version(name) is not None]
    failed = {name: asked[name]["error"] for name in installed if "error" in asked[name]}
    if installed and not failed:
        return [Finding("imports", "ok", f"{', '.join(installed)} can be imported")]
    return [Finding("imports", "error", f"{name} does not import: {why}", INSTALL) for name, why in failed.items()]


def ops_built(answer: ProbeAnswer) -> bool:
    """Whether every operator that raybench's arms use is built."""
    ops = answer.get("deepspeed", {}).get("ops", {})
    return bool(ops) and all(ops.values())


def operators(answer: ProbeAnswer) -> list[Finding]:
    """DeepSpeed's operators, built or not, and locks that killed builds left behind."""
    findings = []
    if "error" in answer.get("built", {}):
        findings.append(
            Finding("DeepSpeed operators", "error", f"cannot be built: {answer['built']['error']}", "see the compiler")
        )
    ops = answer.get("deepspeed", {}).get("ops", {})
    missing = [name for name, built in ops.items() if not built]
    if missing:
        findings.append(
            Finding(
                "DeepSpeed operators", "warning", f"not built yet: {', '.join(missing)}; a sweep builds what it uses",
                "python -m raybench.doctor --build-ops builds them now (a minute or two)",
            )
        )  # fmt: skip
    elif ops:
        findings.append(Finding("DeepSpeed operators", "ok", f"built: {', '.join(ops)}"))
    locks = answer.get("cache", {}).get("locks", {})
    stale = [path for path, held in locks.items() if not held]
    if stale:
        findings.append(
            Finding(
                "build locks", "warning", f"left by a build that died: {', '.join(stale)}; torch waits for it for ever",
                "python -m raybench.doctor --build-ops clears it, and so does a sweep",
            )
        )  # fmt: skip
    elif locks:
        findings.append(Finding("build locks", "ok", f"a build is under way: {', '.join(locks)}"))
    return findings
