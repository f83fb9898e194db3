"""Ray Train's torch process group for trials over several nodes: tells gloo which network interface to use.

By default gloo uses the address that the host's name resolves to. On many systems (Debian: 127.0.1.1) other nodes
cannot reach it. Ray knows each node's cluster address, so gloo is given its interface, unless the user has set one.
raybench's control channel between ranks is gloo even where the engines use NCCL.
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
    """TorchConfig that sets each worker's interface before the process group is made."""

    @property
    def backend_cls(self) -> type[Any]:
        return _SpanningBackend


class _SpanningBackend(torch_backend()):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


def name_interface() -> None:
    """Set gloo's interface to the one with this node's cluster address, unless the user has set one."""
    if os.environ.get(_VARIABLE):
        return
    address = ray.util.get_node_ip_address()
    names = [name for name, found in psutil.net_if_addrs().items() if any(one.address == address for one in found)]
    if names:
        os.environ[_VARIABLE] = names[0]
