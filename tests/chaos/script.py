"""What befalls a chaos run, drawn from a seed: the same seed gives the same list, though not the same milliseconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raybench.declare.plan import Plan

# What a leg does, and the kind of failure that the ledger must then name.
LEG_FAULTS = {
    "raise": "error",  # an exception on every rank
    "raise_alone": "error",  # on one rank, while the others wait for it
    "nan": "not_finite",
    "memory": "out_of_memory",
    "exit": "crashed",  # os._exit on one rank
    "segv": "crashed",
    "kill": "crashed",
    "hang": "timeout",
}
# What is done to a run from outside; the run goes on.
STRIKES = ("kill_trial", "kill_recorder", "kill_worker", "clock_back")
CLUSTER_STRIKES = ("kill_raylet",)
TRACKING = ("stop_tracking", "start_tracking")  # MLflow's server gone, and back
# What ends a run, and its exit code.
ENDS = {
    "kill_driver": -9, "terminate": 143, "interrupt": 130, "interrupt_twice": 130,
    "no_room": 1,  # a row's file can be written in part only
    "kill_gcs": 1,  # the process on the head that knows of all others, alone
    "kill_head": 1,  # every process of a cluster's head; another cluster is started after it
}  # fmt: skip
# The ends that want one of the two kinds of Ray.
PLACES: dict[str, Literal["own", "cluster"]] = {"kill_gcs": "own", "kill_head": "cluster"}
# What is put into the ledger between two runs.
LITTER = ("torn", "garbled", "foreign", "half_written")
# The strikes that a running leg cannot survive.
CUTTING = ("kill_worker", "kill_raylet", "kill_trial")


@dataclass(frozen=True)
class LegFault:
    """What a leg does, and on which rank where one does it alone."""

    kind: str
    rank: int


@dataclass(frozen=True)
class Blow:
    """A strike or an end: `delay` seconds after the ledger has come to hold `at` rows."""

    kind: str
    at: int
    delay: float


@dataclass(frozen=True)
class Run:
    """The sweep's command once: where, what was put into the ledger before it, and what happens to it."""

    where: Literal["own", "cluster"]  # a Ray of the sweep's own, or one of several nodes
    at_once: bool  # begun while what the run before left is still dying
    litter: tuple[str, ...]
    blows: tuple[Blow, ...]


@dataclass(frozen=True)
class Script:
    """All of it. The run after the last one of `runs` is left in peace and must complete the sweep."""

    seed: int
    legs: dict[str, LegFault]  # by leg_id
    runs: tuple[Run, ...]

    def num_faults(self) -> int:
        """How many faults there are: in legs, from outside, in the ledger."""
        return len(self.legs) + sum(len(run.litter) + len(run.blows) for run in self.runs)

    def describe(self) -> dict[str, Any]:
        """The script as plain values."""
        return asdict(self)


def draw_script(
    seed: int,
    plan: Plan,
    *,
    leg_faults: int,
    strikes: Sequence[str],
    ends: Sequence[str],
    litter: Sequence[str],
    places: Sequence[Literal["own", "cluster"]],
    tracking: bool,
) -> Script:
    """Every kind of leg fault in turn until there are `leg_faults`; the strikes, ends and litter as given, each once.

    Legs, ranks, order and moments are drawn. There is a run for each end, `places` in turn but for the ends that want
    one of them; strikes that want a cluster are kept for runs on one.
    """
    chance = random.Random(f"chaos {seed}")
    legs = chance.sample([leg.leg_id for _, leg in plan.legs()], leg_faults)
    kinds = [list(LEG_FAULTS)[number % len(LEG_FAULTS)] for number in range(leg_faults)]
    workers = plan.trials[0].setting.workers
    faults = {leg: LegFault(kind, chance.randrange(workers)) for leg, kind in zip(legs, kinds, strict=True)}

    shuffled_ends = chance.sample(list(ends), len(ends))
    where = [PLACES.get(end, places[number % len(places)]) for number, end in enumerate(shuffled_ends)]
    of_run: list[list[str]] = [[] for _ in shuffled_ends]
    for strike in chance.sample(list(strikes), len(strikes)):
        fitting = [number for number, place in enumerate(where) if place == "cluster" or strike not in CLUSTER_STRIKES]
        # Where there are least so far, so that no run is long and none is quiet.
        fewest = min(len(of_run[number]) for number in fitting)
        of_run[chance.choice([number for number in fitting if len(of_run[number]) == fewest])].append(strike)
    if tracking:
        first, second = sorted(chance.sample(range(len(of_run)), 2)) if len(of_run) > 1 else (0, 0)
        of_run[first].insert(0, TRACKING[0])
        of_run[second].append(TRACKING[1])
    littered: list[list[str]] = [[] for _ in shuffled_ends]
    for thing in litter:
        littered[chance.randrange(1, len(littered)) if len(littered) > 1 else 0].append(thing)

    total = sum(len(kinds) + 1 for kinds in of_run)
    room = 0.9 * len(plan.legs()) / total
    runs, number = [], 0
    for place, strikes_here, things, end in zip(where, of_run, littered, shuffled_ends, strict=True):
        blows = []
        for kind in [*strikes_here, end]:
            number += 1
            at = max(1, round(room * (number - chance.random())))
            blows.append(Blow(kind, at, round(chance.uniform(0.0, 1.5), 2)))
        runs.append(Run(place, chance.random() < 0.5, tuple(things), tuple(blows)))
    return Script(seed, faults, tuple(runs))
