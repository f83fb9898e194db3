"""The process of a trial serves the next one: what starting one costs is paid once for each trial that runs at a time.

Tune (`reuse_actors`) keeps the process of a trial that has ended where another trial is already waiting for one. Here
the next trial is asked for when one has ended, so that none waits and all processes but one would be thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray.tune.execution import tune_controller


class _KeepsAll(tune_controller._ObjectCache):  # type: ignore[misc]
    """Keeps every process until Tune wants none any more, at the end of a sweep."""

    def cache_object(self, key: Any, obj: Any) -> bool:
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        if force_all:
            yield from super().flush_cached_objects(force_all=True)


def keep_trial_processes() -> None:
    """From now on, every Tune run of this process keeps the processes of its trials for the next ones."""
    tune_controller._ObjectCache = _KeepsAll
