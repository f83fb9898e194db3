"""What runs now, kept in one small file, so that a restarted recorder can continue. The ledger does not hold it.

The file is in a hidden folder of the sweep and is deleted with it. Times come from the system's monotonic clock,
which all processes share until the machine restarts; setting the calendar clock back does not affect them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from raybench.cluster.fleet import Need
from raybench.declare.protocol import StepChoice
from raybench.errors import StorageError
from raybench.machine.places import Placement
from raybench.redaction import first_line


@dataclass
class RunningBlock:
    """A block that has processes or asked for them; at most one of its legs runs."""

    began: float  # when it was handed out, then when its nodes were granted, then when its current trial began
    process: str = ""  # its trial process; another one after the first was killed
    group: str = ""  # the current process group
    last_cut: str = ""  # the last process group that was lost
    placement: Placement | None = None  # of the group in `group`
    node_ids: list[str] = field(default_factory=list)  # Ray's ids of that group's nodes
    need: Need | None = None  # what it was granted, and the nodes (Ray's ids) where; None before
    granted: list[str] = field(default_factory=list)
    leg_id: str = ""  # the leg that the group is running
    leg_began: float = 0.0
    start_seconds: float | None = None  # until its first leg began; kept until a row holds it
    leg_started_at: float = 0.0  # seconds since the epoch
    node: str = ""  # that leg's node, by name
    given_up: list[str] = field(default_factory=list)  # trials of which nothing more is run


@dataclass
class Running:
    """The blocks handed out, those that run, and whether further legs may begin."""

    path: Path
    incarnation: int = 1  # of the recorder: counts its starts
    wrote: bool = False  # whether a row was written, so that the ledger must exist
    draining: bool = False
    blocks: list[list[str]] = field(default_factory=list)  # the trial ids of each block handed out, by block number
    active: dict[int, RunningBlock] = field(default_factory=dict)  # by block number
    wanted: dict[str, int] | None = None  # setting -> how many trials are to run; None: all in the plan
    steps: dict[str, StepChoice] = field(default_factory=dict)  # setting -> what `steps: auto` chose
    trouble: str = ""  # why nothing can be written, for example a full disk

    def stop_for(self, error: OSError | StorageError) -> None:
        """Nothing can be written any more: begin no further leg, and report why to the driver."""
        number = getattr(error, "errno", None)
        self.trouble = self.trouble or (os.strerror(number) if number else first_line(error))
        self.draining = True

    @classmethod
    def load(cls, path: Path) -> Running:
        """The state left by an earlier recorder of this sweep; a fresh state for the first recorder."""
        if not path.exists():
            return cls(path)
        state = TypeAdapter(cls).validate_python({**json.loads(path.read_text(encoding="utf-8")), "path": path})
        return replace(state, incarnation=state.incarnation + 1)

    def save(self) -> None:
        """Write the file atomically. It has to outlive this process, not the machine, so it is not flushed to disk."""
        state = {name: value for name, value in asdict(self).items() if name not in ("path", "trouble")}
        aside = self.path.with_name(f".{self.path.name}.writing")
        try:
            aside.write_text(json.dumps(state), encoding="utf-8")
            aside.replace(self.path)
        except FileNotFoundError:
            pass  # the sweep has ended and deleted its folder
        except OSError as error:
            self.stop_for(error)
