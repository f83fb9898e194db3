"""Ray Train's torch process group for a trial over several nodes: gloo on the interface that joins them.

gloo takes the address that the host's name resolves to, which on many systems (Debian: 127.0.1.1) no other node can
reach. Ray knows each node's address in the cluster, so its interface is named to gloo unless the user has named one.
raybench's control channel between ranks is gloo's also where the engines use NCCL.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

from raybench.cluster.ray_private import torch_backend

_VARIABLE = "GLOO_SOCKET_IFNAME"


class SpanningTorchConfig(TorchConfig):  # type: ignore[misc]
    """TorchConfig, with each worker told its interface before the process group is made."""

    @property
    def backend_cls(self) -> type[Any]:
        return _SpanningBackend


class _SpanningBackend(torch_backend()):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


def name_interface() -> None:
    """Name to gloo the interface that has this node's address in the Ray cluster, where nobody named one."""
    if os.environ.get(_VARIABLE):
        return
    address = ray.util.get_node_ip_address()
    names = [name for name, found in psutil.net_if_addrs().items() if any(one.address == address for one in found)]
    if names:
        os.environ[_VARIABLE] = names[0]
