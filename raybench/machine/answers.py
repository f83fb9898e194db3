"""What child processes and other nodes answer, as JSON or pickled: every key may be missing where its check failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Library(TypedDict, total=False):
    """A library that a child process imported; `error` where it could not."""

    version: str
    error: str
    cuda: str | None  # torch's: the CUDA that it was built for
    gpus: list[str]  # torch's: the model of each
    ops: dict[str, bool]  # DeepSpeed's: whether an operator is built, by name


class ExtensionsCache(TypedDict, total=False):
    """torch's folder of built extensions, and its build locks: whether a process holds each, by path."""

    folder: str
    locks: dict[str, bool]
    error: str


class ProbeAnswer(TypedDict, total=False):
    """Of `raybench.training.probes.probe`; `error` alone where the process died."""

    error: str
    torch: Library
    torchvision: Library
    deepspeed: Library
    cache: ExtensionsCache
    built: Library  # the operators, where they were to be built


class AdamRate(TypedDict, total=False):
    """How fast DeepSpeed's CPUAdam steps; `missing` where it is not built."""

    parameters_per_second: float
    threads: int
    missing: str


class LinksAnswer(TypedDict, total=False):
    """Of `raybench.training.probes.links_probe`; `error` alone where the process died."""

    error: str
    world: int
    backend: str
    links: dict[str, Any] | None  # `raybench.machine.links.Links` as JSON
    gpu_links: list[str] | None
    adam: AdamRate


class ClusterAnswer(TypedDict, total=False):
    """Of `raybench.cluster.ray_probe`; `error` alone where the cluster cannot be joined."""

    error: str
    description: str
    slots: int | None
    nodes: Sequence[Mapping[str, float]]  # the resources of each
    autoscaler: dict[str, Any] | None


class NodeAnswer(TypedDict, total=False):
    """Of a task on another node: its versions, the digest of each file (empty: not there), and missing data."""

    error: str
    files: dict[str, str]
    versions: dict[str, str | None]
    missing: list[tuple[str, str, list[str]]]  # dataset, its folder, names of files
