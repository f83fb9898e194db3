"""Who may start: the plan's order, sizes side by side, what is held for a large trial, what is waited for in vain."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raybench.cluster.admission import Granted, Queue, Refused
from raybench.cluster.fleet import SLOT, Autoscaler, Need, Node, NodeType

WAIT = 600.0


class Fleet:
    """A queue, its clock, and nodes of which this test says what is taken."""

    def __init__(self, order: list[str], autoscaler: Autoscaler | None = None) -> None:
        self.now = 0.0
        self.order = order
        self.queue = Queue(WAIT, autoscaler, clock=lambda: self.now)
        self.nodes: dict[str, Node] = {}

    def add(self, name: str, cpus: int = 4, **amounts: float) -> None:
        total = {"CPU": float(cpus), SLOT: 1.0, **amounts}
        self.nodes[name] = Node(f"id-{name}", name, total, dict(total))

    def take(self, name: str, need: Need | None = None) -> None:
        """Ray shows a node as wholly taken, or its part of a need; what is used up it leaves out."""
        node = self.nodes[name]
        free = need.taken_from(node.free) if need else {}
        self.nodes[name] = Node(node.node_id, name, node.total, {k: v for k, v in free.items() if v > 0})

    def give_back(self, name: str) -> None:
        node = self.nodes[name]
        self.nodes[name] = Node(node.node_id, name, node.total, dict(node.total))

    def ask(self, block: str, need: Need, setting: str = "", wanted: tuple[str, ...] = ()) -> Any:
        """The names of the nodes that are granted, why it is refused, or else what to do."""
        self.now += 2.0
        settings = [setting or f"setting of {block}"]
        answer = self.queue.ask(self.order.index(block), settings, need, wanted, list(self.nodes.values()))
        names = {node.node_id: name for name, node in self.nodes.items()}
        match answer:
            case Granted(node_ids):
                return [names[node_id] for node_id in node_ids]
            case Refused(why):
                return why
        return type(answer).__name__.lower()

    def start(self, trial: str, names: list[str], need: Need) -> None:
        """The processes of a trial come up."""
        for name in names:
            self.take(name, need)
        self.queue.placed(self.order.index(trial), [self.nodes[name].node_id for name in names])

    def end(self, trial: str, names: list[str]) -> None:
        for name in names:
            self.give_back(name)
        self.queue.release(self.order.index(trial))


def need(nodes: int = 1, cpus: int = 2, slot: float = 1.0, **amounts: float) -> Need:
    return Need(nodes, tuple(sorted({"CPU": float(cpus), SLOT: slot, **amounts}.items())))


def test_trials_of_different_sizes_run_side_by_side() -> None:
    fleet = Fleet(["a", "b", "c"])
    for name in ("n1", "n2", "n3"):
        fleet.add(name)
    assert fleet.ask("a", need()) == ["n1"]
    assert fleet.ask("b", need(2)) == ["n2", "n3"]
    assert fleet.ask("c", need()) == "wait"
    assert fleet.ask("a", need()) == ["n1"]  # asked again, the same answer
    fleet.start("a", ["n1"], need())
    assert fleet.ask("c", need()) == "wait"
    fleet.end("a", ["n1"])
    assert fleet.ask("c", need()) == ["n1"]


def test_small_trials_do_not_starve_a_large_one() -> None:
    fleet = Fleet(["small1", "large", "small2", "small3"])
    fleet.add("n1")
    fleet.add("n2")
    fleet.start("small1", fleet.ask("small1", need()), need())
    assert fleet.ask("small2", need()) == ["n2"]  # the large one has not asked yet
    fleet.start("small2", ["n2"], need())
    assert fleet.ask("large", need(2)) == "wait"
    fleet.end("small2", ["n2"])
    assert fleet.ask("small3", need()) == "wait"  # n2 is held for the large one
    fleet.end("small1", ["n1"])
    assert fleet.ask("small3", need()) == "wait"
    assert fleet.ask("large", need(2)) == ["n1", "n2"]


def test_what_a_large_trial_cannot_use_is_not_held_for_it() -> None:
    fleet = Fleet(["first", "large", "small"])
    fleet.add("big1", cpus=8)
    fleet.add("big2", cpus=8)
    fleet.add("little", cpus=2)
    fleet.start("first", fleet.ask("first", need(cpus=8)), need(cpus=8))
    assert fleet.ask("large", need(2, cpus=8)) == "wait"
    assert fleet.ask("small", need()) == ["little"]


def test_a_trial_that_nothing_could_serve_holds_nothing_and_is_refused_in_the_end() -> None:
    fleet = Fleet(["large", "small", "large2"])
    fleet.add("n1")
    assert fleet.ask("large", need(2)) == "wait"
    assert fleet.ask("small", need()) == ["n1"]
    (missed,) = fleet.queue.missed()
    assert missed.what == "2 nodes with 2 CPUs and a bench_slot each"
    assert missed.most == WAIT
    fleet.now += WAIT
    words = (
        "2 nodes with 2 CPUs and a bench_slot each did not become available within 10 min; "
        "there are: 1 node with 4 CPUs"
    )
    assert fleet.ask("large", need(2)).startswith(words)
    assert fleet.ask("large2", need(2)).startswith(words)  # the same again is not waited for anew
    fleet.add("n2")
    assert fleet.ask("large2", need(2)) == "wait"  # now it only waits for the small one
    assert fleet.queue.missed() == []


def test_nodes_that_somebody_else_has_are_waited_for_as_those_that_are_not_there() -> None:
    fleet = Fleet(["a"])
    fleet.add("n1")
    fleet.take("n1")
    assert fleet.ask("a", need()) == "wait"
    assert fleet.queue.missed()
    fleet.now += WAIT
    assert fleet.ask("a", need()).endswith(", 1 of them taken by others")


def test_what_ray_does_not_show_yet_is_granted_once() -> None:
    fleet = Fleet(["a", "b"])
    fleet.add("n1")
    assert fleet.ask("a", need()) == ["n1"]
    assert fleet.ask("b", need()) == "wait"  # Ray still shows n1 as free
    fleet.queue.placed(fleet.order.index("a"), ["id-n1"])
    assert fleet.ask("b", need()) == "wait"
    assert fleet.queue.missed() == []  # the sweep has it itself


def test_a_trial_whose_node_is_gone_gets_another() -> None:
    fleet = Fleet(["a"])
    fleet.add("n1")
    fleet.start("a", fleet.ask("a", need()), need())
    del fleet.nodes["n1"]
    fleet.add("n2")
    assert fleet.ask("a", need(), wanted=("n1",)) == ["n2"]


def test_a_trial_goes_on_where_its_earlier_legs_ran_while_that_lives() -> None:
    fleet = Fleet(["a", "b"])
    fleet.add("n1")
    fleet.add("n2")
    assert fleet.ask("b", need(), wanted=("n2",)) == ["n2"]
    assert fleet.ask("a", need(), wanted=("n2",)) == "wait"  # n1 is free, and would make it begin anew


def test_a_settings_trials_stay_on_one_kind_of_node() -> None:
    fleet = Fleet(["a0", "a1", "b0", "a2"])
    fleet.add("old", **{"accelerator_type:V100": 1.0})
    fleet.add("new", cpus=8, **{"accelerator_type:H100": 1.0})
    assert fleet.ask("a0", need(), "a") == ["old"]
    assert fleet.ask("a1", need(), "a") == "wait"
    assert fleet.ask("b0", need(), "b") == ["new"]
    fleet.end("a0", ["old"])
    assert fleet.ask("a1", need(), "a") == ["old"]
    del fleet.nodes["old"]
    fleet.end("b0", ["new"])
    assert fleet.ask("a2", need(), "a") == ["new"]  # the analysis tells them apart


def test_nodes_with_the_labels_that_are_named_are_what_is_granted() -> None:
    fleet = Fleet(["a", "b", "c"])
    fleet.add("one", **{"label:zone=a": 1.0})
    fleet.add("two", **{"label:zone=b": 1.0})
    there = need(**{"label:zone=b": 0.0001})
    assert fleet.ask("a", there) == ["two"]
    fleet.start("a", ["two"], there)
    assert fleet.ask("b", there) == "wait"
    assert fleet.ask("c", need()) == ["one"]  # which the one that waits could not use
    fleet.end("a", ["two"])
    assert fleet.ask("b", there) == ["two"]


def test_an_accelerator_that_is_named_is_what_is_granted() -> None:
    fleet = Fleet(["a"])
    fleet.add("old", **{"accelerator_type:V100": 1.0})
    fleet.add("new", **{"accelerator_type:H100": 1.0})
    assert fleet.ask("a", need(**{"accelerator_type:H100": 0.0001})) == ["new"]


def test_several_nodes_are_of_one_kind_where_one_has_enough() -> None:
    fleet = Fleet(["a", "b"])
    fleet.add("n1", cpus=4)
    fleet.add("n2", cpus=8)
    fleet.add("n3", cpus=8)
    assert fleet.ask("a", need(2)) == ["n2", "n3"]
    fleet.start("a", ["n2", "n3"], need(2))
    fleet.add("n4", cpus=16)
    assert fleet.ask("b", need(2)) == "wait"  # n1 and n4 are free and unlike; n2 and n3 will be free
    del fleet.nodes["n3"]
    fleet.end("a", ["n2"])
    assert fleet.ask("b", need(2)) == ["n1", "n2"]  # no kind has two: what there is


def test_parts_of_a_slot_are_shared() -> None:
    fleet = Fleet(["a", "b", "c"])
    fleet.add("n1")
    half = need(slot=0.5)
    fleet.start("a", fleet.ask("a", half), half)
    fleet.start("b", fleet.ask("b", half), half)
    assert fleet.ask("c", half) == "wait"
    fleet.queue.release(fleet.order.index("a"))
    fleet.give_back("n1")
    fleet.take("n1", half)  # of b
    assert fleet.ask("c", half) == ["n1"]


def test_nodes_that_have_to_be_started_are_granted_without_their_names() -> None:
    scaler = Autoscaler((NodeType("gpu", {"CPU": 4, SLOT: 1}, most=2),), most=2)
    fleet = Fleet(["a", "b", "c"], scaler)
    assert fleet.ask("a", need()) == []
    assert fleet.ask("b", need()) == []
    assert fleet.ask("c", need()) == "wait"  # two is all it can start
    (missed,) = fleet.queue.missed()
    assert missed.what == "1 node with 2 CPUs and a bench_slot"
    fleet.add("n1")
    assert fleet.ask("c", need()) == "wait"  # n1 came for the first
    fleet.start("a", ["n1"], need())
    assert fleet.ask("c", need()) == "wait"
    fleet.end("a", ["n1"])
    fleet.add("n2")
    fleet.start("b", ["n2"], need())
    assert fleet.ask("c", need()) == ["n1"]


def test_an_autoscaler_that_was_asked_in_vain_is_not_asked_again_for_each_trial() -> None:
    scaler = Autoscaler((NodeType("gpu", {"CPU": 4, SLOT: 1}, most=2),), most=2)
    fleet = Fleet(["a", "b"], scaler)
    assert fleet.ask("a", need()) == []
    fleet.now += 600
    fleet.queue.not_started(fleet.order.index("a"))
    assert "did not become available within 10 min" in fleet.ask("a", need())
    assert "did not become available within 10 min" in fleet.ask("b", need())
    fleet.add("n1")
    assert fleet.ask("b", need()) == ["n1"]
    fleet.start("b", ["n1"], need())
    fleet.add("n2")
    assert fleet.ask("a", need()) == ["n2"]


def test_what_never_came_is_asked_for_again_once_a_node_has_joined_and_not_before() -> None:
    scaler = Autoscaler((NodeType("gpu", {"CPU": 4, SLOT: 1}, most=3),), most=3)
    fleet = Fleet(["a", "b", "c"], scaler)
    fleet.add("n0")
    fleet.start("a", fleet.ask("a", need()), need())
    assert fleet.ask("b", need()) == []
    fleet.now += 600
    fleet.queue.not_started(fleet.order.index("b"))
    fleet.queue.placed(fleet.order.index("a"), [fleet.nodes["n0"].node_id])  # the next group of a, where it was
    assert fleet.ask("b", need()) == "wait"
    fleet.add("n1")
    fleet.start("b", fleet.ask("b", need()), need())
    assert fleet.ask("c", need()) == []


def test_processes_that_end_on_a_node_that_came_do_not_end_the_asking() -> None:
    scaler = Autoscaler((NodeType("gpu", {"CPU": 4, SLOT: 1}, most=2),), most=2)
    fleet = Fleet(["a"], scaler)
    assert fleet.ask("a", need()) == []
    fleet.now += 60
    fleet.queue.not_started(fleet.order.index("a"))
    assert fleet.ask("a", need()) == []


def test_what_a_vanished_trial_had_is_free_again_after_a_while() -> None:
    fleet = Fleet(["a", "b"])
    fleet.add("n1")
    fleet.start("a", fleet.ask("a", need()), need())
    fleet.give_back("n1")  # its processes are gone, and it never said so
    assert fleet.ask("b", need()) == "wait"
    fleet.now += 301
    fleet.ask("b", need())
    assert fleet.ask("b", need()) == ["n1"]


@pytest.mark.parametrize("seed", range(20))
def test_every_trial_gets_its_turn_and_no_node_is_granted_twice(seed: int) -> None:
    """A sweep of random sizes over random nodes: whole slots, every trial runs, equal needs keep their order."""
    rng = random.Random(seed)
    trials = [f"t{i}" for i in range(25)]
    needs = {trial: need(rng.choice([1, 1, 1, 2, 3])) for trial in trials}
    fleet = Fleet(trials)
    for number in range(4):
        fleet.add(f"n{number}", cpus=rng.choice([4, 8]))
    running: dict[str, list[str]] = {}
    started: list[str] = []
    waiting: list[str] = []
    left = list(trials)
    for _ in range(2000):
        if len(waiting) + len(running) < 4 and left:
            waiting.append(left.pop(0))  # as Tune hands them out
        for trial in rng.sample(waiting, len(waiting)):
            granted = fleet.ask(trial, needs[trial])
            if isinstance(granted, list):
                taken = [name for names in running.values() for name in names]
                assert len(set(granted)) == needs[trial].nodes
                assert not set(granted) & set(taken)
                fleet.start(trial, granted, needs[trial])
                running[trial] = granted
                started.append(trial)
                waiting.remove(trial)
        if running and rng.random() < 0.5:
            trial = rng.choice(sorted(running))
            fleet.end(trial, running.pop(trial))
    assert sorted(started) == sorted(trials)
    for size in (1, 2, 3):
        of_size = [trial for trial in started if needs[trial].nodes == size]
        overtaken = [sum(trials.index(o) > trials.index(t) for o in of_size[:place]) for place, t in enumerate(of_size)]
        assert max(overtaken, default=0) <= 3  # by those that asked in the same moment, before it did


def test_a_trial_that_asks_no_more_keeps_nothing_from_the_others() -> None:
    fleet = Fleet(["small1", "large", "small2"])
    fleet.add("n1")
    fleet.add("n2")
    fleet.start("small1", fleet.ask("small1", need()), need())
    assert fleet.ask("large", need(2)) == "wait"
    assert fleet.ask("small2", need()) == "wait"
    fleet.now += 61  # the process of the large one was killed
    assert fleet.ask("small2", need()) == ["n2"]
