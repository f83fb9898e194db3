"""A block that waits for its nodes frees what a killed trial process of the sweep still holds there, on real Ray."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.util.placement_group import placement_group

from raybench.cluster.admission import Answer, Queue
from raybench.cluster.fleet import Need, Node
from raybench.driver import trial

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NEED = Need(1, (("CPU", 1.0), ("bench_slot", 1.0)))


class Recorder:
    """Its part in admission alone."""

    def __init__(self) -> None:
        self.queue = Queue(wait_seconds=30.0)

    def admit(self, number: int, need: Need, wanted: Any = (), fleet: list[Node] | None = None) -> Answer:
        return self.queue.ask(number, ["setting"], need, wanted, fleet)


class Runner:
    """A living trial process that Train left with a reservation, as when a worker dies before its group is made."""

    def run(self, recorder: Any) -> tuple[str, ...] | None:
        trial.need_of = lambda *_: NEED
        assert placement_group([dict(NEED.resources)]).wait(30)
        block, sweep = SimpleNamespace(number=2, first=None), SimpleNamespace(cluster=None)
        return trial._admitted(recorder, cast(Any, block), cast(Any, sweep), ())


class Holder:
    """A trial process that is killed while its workers' reservation stands."""

    def hold(self) -> int:
        self.group = placement_group([dict(NEED.resources)])
        assert self.group.wait(30)
        return os.getpid()


def test_a_living_processes_own_reservation_is_freed_before_it_asks_again(ray_address: str) -> None:
    runner, recorder = ray.remote(num_cpus=0)(Runner).remote(), ray.remote(num_cpus=0)(Recorder).remote()
    assert ray.get(runner.run.remote(recorder), timeout=60) == (ray.nodes()[0]["NodeID"],)
    ray.kill(runner)


def test_a_killed_processes_reservation_is_freed_though_its_block_has_no_leg_left(
    ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "need_of", lambda *_: NEED)
    holder, recorder = ray.remote(Holder).remote(), ray.remote(num_cpus=0)(Recorder).remote()
    os.kill(ray.get(holder.hold.remote()), signal.SIGKILL)
    block, sweep = SimpleNamespace(number=1, first=None), SimpleNamespace(cluster=None)
    begun = time.monotonic()
    node_ids = trial._admitted(recorder, cast(Any, block), cast(Any, sweep), ())
    assert node_ids == (ray.nodes()[0]["NodeID"],)
    assert time.monotonic() - begun < 20
