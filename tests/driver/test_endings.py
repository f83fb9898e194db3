"""Which failure the end of a group is, from what Ray says of its processes and what is known of their deaths."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.cluster.connection import ray
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.driver import endings
from raybench.driver.deaths import Death
from raybench.errors import LegDied

TRIAL = build_plan(*load_space("quickstart", {}), sweep="s").trials[0]


class Ended(RuntimeError):
    """As Ray Train's: what happened to each rank that did not end well."""

    def __init__(self, **ranks: BaseException) -> None:
        super().__init__("the group ended")
        self.worker_failures = {int(rank.removeprefix("r")): error for rank, error in ranks.items()}


def died(rank_deaths: dict[str, Death], monkeypatch: pytest.MonkeyPatch, oom_kills: int = 0, **others: Any) -> Any:
    errors = {rank: ray.exceptions.ActorDiedError() for rank in rank_deaths}
    for rank, error in errors.items():
        error.actor_id = rank
    monkeypatch.setattr(endings, "how_died", lambda actor_id, _seconds: rank_deaths[actor_id])
    return endings.failure_of(TRIAL, Ended(**errors, **others), 1.0, oom_kills=oom_kills)


@pytest.mark.parametrize(
    ("death", "oom_kills", "kind", "words"),
    [
        (Death("SIGSEGV", "/logs/worker.err", False), 1, "crashed", "rank 1: its process died of SIGSEGV"),
        (Death("SIGSEGV", "/logs/worker.err", None), 1, "crashed", "rank 1: its process died of SIGSEGV"),
        (Death(oom_killed=True), 0, "out_of_memory", "rank 1: its process was ended by the kernel's OOM killer"),
        (Death(oom_killed=False), 1, "crashed", "rank 1: its process died: "),  # the kernel ended somebody else's
        (Death(), 1, "out_of_memory", "rank 1: its process died while the kernel's OOM killer was at work: "),
        (Death(), 0, "crashed", "rank 1: its process died: "),
    ],
)
def test_what_is_known_comes_before_what_is_likely(
    death: Death, oom_kills: int, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = died({"r1": death}, monkeypatch, oom_kills, r0=RuntimeError("connection closed by peer"))
    assert (failure.kind, failure.message[: len(words)]) == (kind, words)
    assert failure.environment.get("log", "") == death.log


def test_of_several_dead_processes_the_one_whose_cause_is_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = died({"r0": Death(), "r3": Death("SIGBUS", "/logs/worker.err")}, monkeypatch)
    assert failure.message == "rank 3: its process died of SIGBUS"


def test_beyond_its_time_a_leg_timed_out_however_its_processes_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "how_died", lambda *_: Death("SIGABRT"))  # as NCCL ends a rank whose peer is gone
    ended = Ended(r0=ray.exceptions.ActorDiedError(), r1=LegDied("leg", "error", "connection closed by peer"))
    assert endings.failure_of(TRIAL, ended, 1e6, oom_kills=1).kind == "timeout"


def test_a_leg_that_ran_out_of_memory_after_a_long_search_did_not_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "how_died", lambda *_: Death(oom_killed=True))
    ended = Ended(r0=ray.exceptions.ActorDiedError())
    assert endings.failure_of(TRIAL, ended, 1e6, oom_kills=1).kind == "out_of_memory"
    own = Ended(r1=LegDied("leg", "out_of_memory", "no room"))
    assert endings.failure_of(TRIAL, own, 1e6, oom_kills=0).message == "no room"


def test_of_a_traceback_the_exception_is_told() -> None:
    text = (
        "Training failed due to worker errors:\n[Rank 0,1 Error Snippet]:\nTraceback (most recent call last):\n"
        '  File "a.py", line 1, in <module>\n    import old\nImportError: cannot import name DTensor\n'
    )
    told = "Training failed due to worker errors: [Rank 0,1 Error Snippet]: ImportError: cannot import name DTensor"
    assert endings.first_words(RuntimeError(text)) == told
    assert endings.first_words(ValueError("no\nmore")) == "no more"
