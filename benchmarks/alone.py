"""The environment that torchrun gives the one process of a group, for benchmarks that start it themselves.

torchrun starts its processes in sessions of their own, where a limit that ends a whole process group does not reach.
"""

from __future__ import annotations

import os
import socket


def environment_of_one() -> dict[str, str]:
    """The variables of this process, and those of a group of one with a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**os.environ, **group}
