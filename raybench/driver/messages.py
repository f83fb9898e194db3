"""What crosses between the processes of a sweep: the driver, the recorder, Tune's trial processes, and the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from raybench.cluster.admission import Missed
from raybench.cluster.placement import Cluster
from raybench.declare.plan import Trial
from raybench.ledger.quantities import Row


@dataclass(frozen=True)
class Block:
    """Trials of different settings, one after another in one set of processes: what one trial of Tune's runs."""

    number: int  # in the order in which blocks were handed out, from 0
    trials: tuple[Trial, ...]
    packages: Mapping[str, str] = field(default_factory=dict)  # of the group that is to run

    @property
    def first(self) -> Trial:
        """A trial that stands for all in what they have in common: workers, device, limits."""
        return self.trials[0]


@dataclass(frozen=True)
class SweepConfig:
    """What a trial process is told, the same for all blocks of a sweep."""

    recorder: str  # an actor's name
    cluster: Cluster
    storage: str  # an absolute path, as the next
    working_tree: str
    versions: Mapping[str, str | None]  # of the driver
    variables: Mapping[str, str]  # of the driver, for the workers
    wait_seconds: float  # for nodes that have to be started
    fit: Fit | None = None  # runs a group where `fit_torch` of `raybench.driver.trial` is not to


# Runs one group to its end: the block, the name of the group, the nodes to run on. Returns why it was wrongly placed.
Fit = Callable[[Block, str, SweepConfig, tuple[str, ...]], str]


@dataclass(frozen=True)
class GroupConfig:
    """What each worker of a group is told."""

    recorder: str
    block: int
    group: str
    use_gpu: bool
    versions: Mapping[str, str | None]
    packages: Mapping[str, str] = field(default_factory=dict)  # versions of its legs' own


@dataclass(frozen=True)
class Group:
    """A block's next set of processes."""

    legs: tuple[str, ...] = ()  # that have no outcome yet, in their order; none where nothing is left to run
    nodes: tuple[str, ...] = ()  # by name, those that the first trial's outcomes come from
    was_cut: bool = False  # whether the last processes were killed and may have left something behind
    packages: Mapping[str, str] = field(default_factory=dict)  # versions of the legs' own: another environment


@dataclass(frozen=True)
class Unfinished:
    """What is known of a group that ended before its time."""

    leg_id: str | None = None  # that it had begun and not ended
    seconds: float = 0.0  # since that began
    started_at: float = 0.0  # when, by the calendar
    node_ids: tuple[str, ...] = ()  # where it ran, none where it never said


@dataclass(frozen=True)
class LegEvent:
    """The outcome of a leg, as the driver is told of it."""

    setting_id: str
    setting: str
    repeat: int
    arm: str
    round: int
    leg_id: str
    is_baseline: bool
    attempt: int
    failure: str = ""  # empty where the leg was measured
    profiled: bool = False  # it explains, and counts in no speedup
    mean_step_seconds: float = 0.0
    num_steps: int = 0  # measured; one where a script recorded none, and the whole command was timed
    samples_per_step: int = 0
    seconds: float | None = None  # that the leg took; None for a failure that is in the ledger already
    trial_seconds: float | None = None  # since the trial's turn came; None where another command ran the leg


EVENT_COLUMNS: Final = [
    "setting_id", "setting", "repeat", "arm", "round", "leg_id", "is_baseline", "status", "failure_kind",
    "failure_message", "step_seconds", "warmup_steps", "samples_per_step", "setup_seconds", "train_seconds",
    "eval_seconds", "attempt", "profiled",
]  # fmt: skip


def leg_event(row: Row) -> LegEvent:
    """What there is to tell of a leg: its ledger row without the lists."""
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
        seconds=sum(row[key] or 0.0 for key in ("setup_seconds", "train_seconds", "eval_seconds")),
    )


@dataclass(frozen=True)
class BeginsAnew:
    """A trial whose earlier legs no longer count."""

    setting_id: str
    repeat: int
    attempt: int


@dataclass(frozen=True)
class Note:
    """Something to tell that is no leg's outcome."""

    text: str
    begins_anew: BeginsAnew | None = None


@dataclass(frozen=True)
class RunningLeg:
    """A leg that runs now, since `seconds`, on a node as people name it."""

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

    incarnation: int = 0  # of the recorder: one more each time that it was started
    events: list[LegEvent | Note] = field(default_factory=list)
    running: list[RunningLeg] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    num_active: int = 0  # blocks that have processes
    trouble: str = ""  # why nothing can be kept
