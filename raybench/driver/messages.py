"""Messages between the processes of a sweep: the driver, the recorder, Tune's trial processes and the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from raybench.cluster.admission import Missed
from raybench.cluster.placement import Cluster
from raybench.declare.plan import Trial
from raybench.ledger.quantities import Row, own_seconds


@dataclass(frozen=True)
class Block:
    """Trials of different settings that run one after another in one set of processes: one Ray Tune trial."""

    number: int  # in the order in which blocks were handed out, from 0
    trials: tuple[Trial, ...]
    packages: Mapping[str, str] = field(default_factory=dict)  # of the group to run

    @property
    def first(self) -> Trial:
        """The first trial; it stands for all where they agree: workers, device, limits."""
        return self.trials[0]


@dataclass(frozen=True)
class SweepConfig:
    """What every trial process of a sweep receives."""

    recorder: str  # an actor's name
    cluster: Cluster
    storage: str  # absolute, like working_tree
    working_tree: str
    versions: Mapping[str, str | None]  # the driver's
    variables: Mapping[str, str]  # the driver's, passed to the workers
    wait_seconds: float  # how long to wait for nodes that have to be started
    environments: frozenset[tuple[str, str]] = frozenset()  # made before the first leg: pairs of it and a node's id
    fit: Fit | None = None  # runs a group instead of `raybench.driver.trial.fit_torch`


# Runs one group to its end: block, group name, nodes. Returns why it was wrongly placed; empty where it was not.
Fit = Callable[[Block, str, SweepConfig, tuple[str, ...]], str]


@dataclass(frozen=True)
class GroupConfig:
    """What each worker of a group receives."""

    recorder: str
    block: int
    group: str
    use_gpu: bool
    versions: Mapping[str, str | None]
    packages: Mapping[str, str] = field(default_factory=dict)  # the legs' own package versions


@dataclass(frozen=True)
class Group:
    """A block's next set of processes."""

    legs: tuple[str, ...] = ()  # those without an outcome, in order; empty where nothing is left to run
    nodes: tuple[str, ...] = ()  # names of the nodes where the first trial's outcomes were measured
    was_cut: bool = False  # whether the last processes were killed; Ray may not know of it yet
    packages: Mapping[str, str] = field(default_factory=dict)  # the legs' own package versions


@dataclass(frozen=True)
class Unfinished:
    """What is known about a group that ended early."""

    leg_id: str | None = None  # the leg that was running
    seconds: float = 0.0  # since that leg began
    started_at: float = 0.0  # when it began, seconds since the epoch
    node_ids: tuple[str, ...] = ()  # where the group ran; empty where it never reported


@dataclass(frozen=True)
class LegEvent:
    """A leg's outcome as the driver receives it."""

    setting_id: str
    setting: str
    repeat: int
    arm: str
    round: int
    leg_id: str
    is_baseline: bool
    attempt: int
    failure: str = ""  # empty where the leg was measured
    profiled: bool = False  # profiled for the explanation; counts in no speedup
    mean_step_seconds: float = 0.0
    num_steps: int = 0  # measured; 1 where a script recorded none and the whole command was timed
    samples_per_step: int = 0
    seconds: float | None = None  # how long the leg took; None for a failure already in the ledger
    trial_seconds: float | None = None  # since the trial's turn came; None where another command ran the leg


EVENT_COLUMNS: Final = [
    "setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline", "status", "failure_kind",
    "failure_message", "step_seconds", "warmup_steps", "samples_per_step", "setup_seconds", "train_seconds",
    "eval_seconds", "attempt", "profiled",
]  # fmt: skip


def leg_event(row: Row) -> LegEvent:
    """The event for a leg: its ledger row without the lists."""
    event = LegEvent(
        setting_id=row["setting_id"], setting=row["setting"], repeat=row["repeat"], arm=row["arm"],
        round=row["round"], leg_id=row["leg_id"], is_baseline=row["is_baseline"], attempt=row.get("attempt") or 0,
        profiled=bool(row.get("profiled")),
    )  # fmt: skip
    if row["status"] == "failed":
        return replace(event, failure=f"{row['failure_kind']}: {row['failure_message']}")
    return replace(
        event,
        mean_step_seconds=float(np.mean(row["step_seconds"][row["warmup_steps"] :])),
        num_steps=len(row["step_seconds"]) - row["warmup_steps"],
        samples_per_step=row["samples_per_step"],
        seconds=own_seconds(row),
    )


@dataclass(frozen=True)
class BeginsAnew:
    """A trial whose earlier legs no longer count."""

    setting_id: str
    repeat: int
    attempt: int


@dataclass(frozen=True)
class Note:
    """A message for the user that is not a leg's outcome."""

    text: str
    begins_anew: BeginsAnew | None = None


@dataclass(frozen=True)
class RunningLeg:
    """A leg that has been running for `seconds`, on a node with this name."""

    setting: str
    arm: str
    repeat: int
    round: int
    seconds: float
    node: str
    profiled: bool = False


@dataclass(frozen=True)
class News:
    """What the recorder tells the driver once a second."""

    incarnation: int = 0  # of the recorder: counts its starts
    events: list[LegEvent | Note] = field(default_factory=list)
    running: list[RunningLeg] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    num_active: int = 0  # blocks that run; once the sweep is to stop, those whose processes are up
    trouble: str = ""  # why nothing can be written
