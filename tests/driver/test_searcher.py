"""Tune is given blocks while there are some, no more at a time than may run, and told once none is left."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune.search import Searcher

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.driver.messages import Block
from raybench.driver.searcher import BlockSearcher


class Source:
    """So many blocks, of which one more comes when the first has ended."""

    def __init__(self, blocks: int) -> None:
        self.trial = build_plan(*load_space("quickstart", {}), sweep="s").trials[0]
        self.blocks, self.asked = blocks, 0

    def __call__(self, number: int) -> Block | None:
        self.asked += 1
        return Block(number, (self.trial,)) if number < self.blocks else None


def clock(now: list[float]) -> Callable[[], float]:
    return lambda: now[0]


def test_no_more_than_may_run_and_each_block_once() -> None:
    source = Source(3)
    given_up: list[int] = []
    searcher = BlockSearcher(source, 2, given_up=given_up.append)
    assert [searcher.suggest(name) for name in "abc"] == [{"block": 0}, {"block": 1}, None]
    searcher.on_trial_complete("a")
    assert searcher.suggest("c") == {"block": 2}
    searcher.most_at_once = 3  # a node has joined
    assert searcher.suggest("d") is None  # one that runs may bring more
    searcher.on_trial_complete("b")
    assert given_up == []
    searcher.on_trial_complete("c", error=True)
    assert given_up == [2]
    assert searcher.suggest("d") == Searcher.FINISHED


def test_more_may_come_while_one_runs_and_it_is_asked_for_once_a_second() -> None:
    now, source = [0.0], Source(1)
    searcher = BlockSearcher(source, 2, clock=clock(now))
    assert searcher.suggest("a") == {"block": 0}
    assert [searcher.suggest("b") for _ in range(5)] == [None] * 5
    assert source.asked == 2
    source.blocks = 2
    now[0] = 1.5
    assert searcher.suggest("b") == {"block": 1}


def test_when_all_have_ended_there_is_a_look_that_may_bring_more() -> None:
    source, looks = Source(1), []

    def more() -> bool:
        looks.append(source.blocks)
        source.blocks = 2
        return len(looks) == 1

    searcher = BlockSearcher(source, 2, more)
    assert searcher.suggest("a") == {"block": 0}
    assert searcher.suggest("b") is None  # it runs: no look yet
    assert looks == []
    searcher.on_trial_complete("a")
    assert searcher.suggest("b") == {"block": 1}
    searcher.on_trial_complete("b")
    assert searcher.suggest("c") == Searcher.FINISHED
    assert looks == [1, 2]
