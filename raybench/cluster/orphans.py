"""What processes that were killed leave behind in a Ray cluster, removed before the next ones start."""

from __future__ import annotations

import ray
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_orphaned_placement_groups() -> int:
    """Give back what was reserved by actors of this job that are dead. Returns how many reservations that were.

    Ray keeps an actor's placement group until the whole job ends, and the worker group of a controller that was
    killed would hold its slot for so long. Ray Train has a cleaner for this, which asks the dashboard: a Ray of one
    machine runs without.
    """
    job = ray.get_runtime_context().get_job_id()
    removed = 0
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(data)
        if group.state == gcs_pb2.PlacementGroupTableData.REMOVED or group.creator_job_id.hex() != job:
            continue
        creator = group.creator_actor_id.hex()
        if state.actor_table(creator).get("State") == "DEAD":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed
