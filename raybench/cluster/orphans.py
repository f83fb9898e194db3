"""What processes that were killed leave behind in a Ray cluster, removed before the next ones start."""

from __future__ import annotations

import ray
from ray.util.placement_group import remove_placement_group

from raybench.cluster import ray_private


def remove_orphaned_placement_groups() -> int:
    """Give back what was reserved by actors of this job that are dead. Returns how many reservations that were.

    Ray keeps an actor's placement group until the whole job ends, and the worker group of a trial process that
    was killed would hold its slot for so long. Ray Train has a cleaner for this, which asks the dashboard: a Ray of one
    machine runs without.
    """
    job = ray.get_runtime_context().get_job_id()
    removed = 0
    for creator, group in ray_private.placement_groups_of_actors(job):
        if ray_private.actor_table(creator).get("State") == "DEAD":
            remove_placement_group(group)
            removed += 1
    return removed
