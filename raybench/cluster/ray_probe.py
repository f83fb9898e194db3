"""Joins a Ray cluster as a sweep would, and prints one JSON object on the last line of standard output.

    python -m raybench.cluster.ray_probe ADDRESS

A child process of `raybench.doctor` and `raybench.plan`: it joins a running Ray and never starts one.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from raybench.errors import UserError
from raybench.machine.answers import ClusterAnswer


def main(argv: list[str]) -> int:
    """Print what the cluster at an address has, or why it cannot be joined. Returns 0."""
    os.environ["RAY_ADDRESS"] = argv[0]
    answer: ClusterAnswer
    try:
        from raybench.cluster import connection as clusters

        cluster = clusters.connect()
        answer = {
            "description": cluster.describe(),
            "slots": cluster.slots,
            "nodes": cluster.nodes,
            "autoscaler": asdict(cluster.autoscaler) if cluster.autoscaler else None,
        }
        clusters.disconnect()
    except UserError as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print()
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
