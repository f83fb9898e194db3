"""A provider of nodes for Ray's autoscaler: Ray's own that starts them as processes of this machine, with a quota."""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Starts what is asked for, unless the node type's `node_config` says `quota: 0`; then it fails as AWS does."""

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, *amounts: Any
    ) -> None:
        if node_config.get("quota") == 0:
            raise RuntimeError("VcpuLimitExceeded: You have requested more vCPU capacity than your current limit of 0")
        super().create_node_with_resources_and_labels(node_config, tags, count, *amounts)
