"""The environment that a leg ran in: taken once per process, on every node, and part of every row.

Only listed environment variables are recorded: none of them holds a secret.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from raybench.machine.installed import installed_version, own_versions
from raybench.machine.places import RankPlace, RankReport
from raybench.machine.variables import WORKING_TREE
from raybench.training.node import machine
from raybench.training.ranks import Ranks

_PACKAGES = (
    "raybench", "torch", "torchvision", "deepspeed", "timm", "transformers", "ray", "numpy",
    "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip
# Variables that affect how a training step runs.
_VARIABLES = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME",
    "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "LD_PRELOAD", "DS_ACCELERATOR",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_AVOID_RECORD_STREAMS",
    "TORCH_DISTRIBUTED_DEBUG", "TORCHINDUCTOR_FREEZING", "TORCHINDUCTOR_MAX_AUTOTUNE", "NCCL_ALGO", "NCCL_PROTO",
    "NCCL_DEBUG", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE", "NCCL_IB_HCA",
    "NCCL_NET_GDR_LEVEL", "NCCL_NVLS_ENABLE", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS", "NCCL_BUFFSIZE",
    "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "FI_PROVIDER",
)  # fmt: skip


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, threads, git commits and relevant variables of this process."""
    tree = os.environ.get(WORKING_TREE, ".")
    return {
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "node": platform.node(),
        **machine.processors(),
        **machine.container(),
        "threads": torch.get_num_threads(),
        "threads_interop": torch.get_num_interop_threads(),
        "niceness": os.nice(0),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        **_git("git", Path(__file__).parent),
        **_git("working_tree", Path(tree)),
        **machine.gpu(device),
    }


def report(device: torch.device, node: str, node_id: str) -> RankReport:
    """This process's report of where it is, before anything runs there."""
    versions = own_versions()
    if device.type != "cuda":
        return RankReport(RankPlace(node), node_id, versions=versions)
    properties = torch.cuda.get_device_properties(device)
    uuid = str(properties.uuid)
    return RankReport(RankPlace(node, (uuid,)), node_id, properties.name, machine.foreign_processes(uuid), versions)


def gather_environment(ranks: Ranks) -> dict[str, Any]:
    """The first rank's environment and how other nodes differ; every rank calls it and gets the same.

    `gpu_uuids` names the GPUs of all ranks, `nodes` the nodes where there are several; `differences` has, for each node
    that differs from the first one, the differing entries.
    """
    own = environment(ranks.device)
    uuid = own.pop("gpu_uuid", None)
    places = ranks.gather((own["node"], uuid))
    if uuid is not None:
        own["gpu_links"] = machine.gpu_links([other for node, other in places if node == own["node"]])
    nodes: dict[str, dict[str, Any]] = {}
    everyone = ranks.gather(own)
    for other in everyone:
        nodes.setdefault(other["node"], other)
    first = next(iter(nodes.values()))
    differing = differences(nodes)
    return {
        **first,
        **({"gpu_uuids": [other for _, other in places], "gpu": _gpus(everyone)} if uuid is not None else {}),
        **({"nodes": list(nodes)} if len(nodes) > 1 else {}),
        **({"differences": differing} if differing else {}),
    }


def _gpus(everyone: Sequence[Mapping[str, Any]]) -> str:
    """The GPUs' model; all of them where they are not alike, which under torchrun nobody refuses."""
    return " and ".join(dict.fromkeys(other["gpu"] for other in everyone))


def differences(nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By node, the entries of its environment that differ from the first node's."""
    first, *others = nodes.values()
    found = {
        other["node"]: {
            key: other.get(key)
            for key in sorted((first.keys() | other.keys()) - {"node"})
            if other.get(key) != first.get(key)
        }
        for other in others
    }
    return {node: entries for node, entries in found.items() if entries}


def _git(name: str, folder: Path) -> dict[str, Any]:
    """The commit of the source tree around a folder, and whether it is dirty; None outside a tree or without git."""
    commit = _git_says(folder, "rev-parse", "HEAD")
    changed = _git_says(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {f"{name}_commit": commit, f"{name}_dirty": None if changed is None else bool(changed)}


def _git_says(folder: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
