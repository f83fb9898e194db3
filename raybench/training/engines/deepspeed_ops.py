"""Importing DeepSpeed in a worker: chooses its accelerator and builds its operators once a node, before any timing.

DeepSpeed compiles operators on first use (g++ and ninja) into torch's extensions cache, under a lock file. If the
process that held it was killed, torch 2.13 waits for the lock forever. So one process a node builds, under an operating
system lock that is released when its holder dies, and first removes stale lock files. An operator that does not compile
is tried once a node in each run of a sweep: the compiler's message is kept beside the cache, and legs that need the
operator fail with it at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import platform
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from raybench.declare.deepspeed_config import offloads
from raybench.declare.setting import Setting
from raybench.errors import Unsupported
from raybench.machine.variables import RUN
from raybench.training.ranks import Ranks

_loaded: set[str] = set()  # operators that this process has loaded
_this_process = uuid.uuid4().hex  # identifies the run where no sweep does, as under torchrun


def import_deepspeed(ranks: Ranks) -> None:
    """Import deepspeed for the group's device and load the operators that its communication uses.

    Raises Unsupported where they cannot be built, after all ranks have met.
    """
    os.environ.setdefault("DS_ACCELERATOR", ranks.device.type)
    venv_bin = str(Path(sys.executable).parent)  # has ninja; not on the PATH unless the venv is activated
    if venv_bin not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = venv_bin + os.pathsep + os.environ["PATH"]
    try:
        _import_engine()
        build_communication()
    finally:
        ranks.barrier()


def _import_engine() -> None:
    """Import what DeepSpeed would otherwise import inside its first engine, at the expense of that leg alone.

    Every ZeRO engine imports Muon, whose module compiles functions at import: 3 s for inductor in each process. Here
    they are compiled at their first call, which only an arm with Muon makes. The modules differ between versions.
    DeepSpeed's autotuner, which raybench does not use, would import MLflow (2 s); here it cannot.
    """
    with _not_importable("mlflow"):
        from deepspeed.runtime import compiler

    whole = compiler.compile
    compiler.compile = functools.partial(_compiled_when_called, whole)
    try:
        for name in _ENGINE_MODULES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        compiler.compile = whole


@contextlib.contextmanager
def _not_importable(name: str) -> Iterator[None]:
    """Inside, importing a package that is not imported yet raises ModuleNotFoundError (Python does so for None)."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


_ENGINE_MODULES = (
    "deepspeed.comm.mori", "deepspeed.module_inject.auto_ep_layer", "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.stage_1_and_2", "deepspeed.runtime.zero.stage3", "deepspeed.utils.pin_memory",
)  # fmt: skip


def _compiled_when_called(whole: Callable[..., Any], *options: Any, **named: Any) -> Callable[..., Any]:
    """A decorator like `whole(*options, **named)` that does its work at the function's first call."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = functools.cache(lambda: whole(*options, **named)(function))
        return functools.wraps(function)(lambda *arguments, **keywords: compiled()(*arguments, **keywords))

    return decorate


def build_communication() -> None:
    """Build the operators for DeepSpeed's collectives within a node without GPUs. Raises Unsupported."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        _build(builder)


def build_adam(*, offloaded: bool) -> None:
    """Build DeepSpeed's Adam kernel, CPUAdam where `offloaded` and FusedAdam otherwise. Raises Unsupported."""
    build_optimizer_kernel("adam", offloaded=offloaded)


def build_optimizer_kernel(name: str, *, offloaded: bool) -> None:
    """Build DeepSpeed's kernel of an optimizer, unless it is built or there is none. Raises Unsupported."""
    if builder_name := _KERNELS.get(name.lower(), {}).get(offloaded):
        _build_named(builder_name)


def build_operators(config: Mapping[str, Any], setting: Setting) -> None:
    """Build every operator that a resolved config needs, so that no leg builds one. Raises Unsupported."""
    for name in needed_operators(config, setting):
        _build_named(name)


def needed_operators(config: Mapping[str, Any], setting: Setting) -> list[str]:
    """DeepSpeed's names for the builders of the operators that an arm loads."""
    zero = config.get("zero_optimization") or {}
    offloading = [zero.get(f"offload_{what}") or {} for what in ("optimizer", "param")]
    optimizer = config.get("optimizer")
    kernel: str = setting.optimizer.name if setting.optimizer.kernel == "deepspeed" else ""
    if optimizer is not None:
        kernel = "" if (optimizer.get("params") or {}).get("torch_adam") else str(optimizer.get("type"))
    on_disk = any(section.get("device") == "nvme" for section in offloading)
    pinned = any(section.get("pin_memory") for section in offloading)
    on_gds = (config.get("aio") or {}).get("use_gds")
    wanted = {
        _KERNELS.get(kernel.lower(), {}).get(offloads(config, "optimizer"), ""): True,
        "CPUAdamBuilder": bool(zero.get("zenflow")),
        "GDSBuilder" if on_gds else "AsyncIOBuilder": on_disk,
        "PinMemoryBuilder": pinned and os.environ.get("DS_PIN_MEMORY_BACKEND", "").strip().lower() == "native",
        "QuantizerBuilder": bool(zero.get("zero_quantized_weights") or zero.get("zero_quantized_gradients")),
        "DeepCompileBuilder": bool((config.get("compile") or {}).get("deepcompile")),
    }
    return [name for name, is_wanted in wanted.items() if name and is_wanted]


def _build_named(name: str) -> None:
    from deepspeed.ops import op_builder

    builder = getattr(op_builder, name)()
    if builder is None or type(builder).__name__ == "NotImplementedBuilder":
        raise Unsupported(f"DeepSpeed has no {name.removesuffix('Builder')} for this device")
    _build(builder)


# By optimizer, and by whether its states are offloaded to the host.
_KERNELS = {
    "adam": {True: "CPUAdamBuilder", False: "FusedAdamBuilder"},
    "adamw": {True: "CPUAdamBuilder", False: "FusedAdamBuilder"},
    "adagrad": {True: "CPUAdagradBuilder"},
    "lamb": {True: "FusedLambBuilder", False: "FusedLambBuilder"},
    "lion": {True: "CPULionBuilder", False: "FusedLionBuilder"},
    "muon": {True: "CPUAdamBuilder", False: "FusedAdamBuilder"},  # for parameters that are no matrices
}


def _build(builder: Any) -> None:
    """Build and load an operator, or repeat the error of this run's first attempt on this node. Raises Unsupported."""
    name = str(builder.name)
    if name in _loaded:
        return
    with _only_builder() as cache:
        told = cache / f".raybench-{name}.txt"
        run = os.environ.get(RUN, _this_process)
        if told.exists() and (lines := told.read_text(encoding="utf-8").split("\n", 2))[0] == f"run {run}":
            raise Unsupported(lines[1])
        try:
            builder.load(verbose=False)  # verbose: the compiler's output would go to a log file
        except Exception as error:  # every compiler fails in its own way
            words = _compilers_words(str(error)) or type(error).__name__
            if "hardware/software issue" in words:  # DeepSpeed's text, which does not say which
                words = f"DeepSpeed finds it incompatible with this machine{_NEEDED.get(name, '')}"
            message = (
                f"DeepSpeed's operator {name} cannot be built on {platform.node()}: {words} (all that was said: {told})"
            )
            told.write_text(f"run {run}\n{message}\n{error}\n", encoding="utf-8")
            raise Unsupported(message) from error
        told.unlink(missing_ok=True)
    _loaded.add(name)


_NEEDED = {"async_io": "; it needs libaio with its headers (apt install libaio-dev)"}


def _compilers_words(text: str) -> str:
    """The most telling line of a failed build: the compiler's first error, else the last line before ninja's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("ninja:", "FAILED:"))]
    errors = [line for line in said if re.search(r"\berror\b.*:", line) and "Error building extension" not in line]
    return (errors or said[-1:] or [""])[0][:500]


@contextlib.contextmanager
def _only_builder() -> Iterator[Path]:
    """Hold raybench's lock on the extensions cache, after removing stale lock files; yields the cache."""
    cache = extensions_cache()
    with FileLock(cache / ".raybench.lock"):  # an operating system lock: released when its holder dies
        clear_stale_locks(cache)
        yield cache


def clear_stale_locks(cache: Path) -> list[Path]:
    """Remove torch's build locks in `cache` that no process on this machine holds. Returns them."""
    stale = [lock for lock in sorted(cache.glob("*/lock")) if not is_held(lock)]
    for lock in stale:
        lock.unlink(missing_ok=True)
    return stale


def is_held(path: Path) -> bool:
    """Whether a process on this machine that we may inspect has the file open, as torch's builder does its lock."""
    held = str(path.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == held:
                return True
        except OSError:
            continue
    return False


def extensions_cache() -> Path:
    """The folder in which torch keeps built extensions, one subfolder each."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory("deepspeed_shm_comm", verbose=False)).parent
