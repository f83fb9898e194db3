"""What runs now, which the ledger does not hold: kept in one small file, so that a recorder that was killed goes on.

The file lies in a hidden folder of the sweep and goes with it. Moments are those of the system's monotonic clock, the
same in every process until the machine starts anew; a clock that is set back changes none of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from raybench.declare.protocol import StepChoice
from raybench.errors import StorageError
from raybench.machine.places import Placement
from raybench.redaction import first_line


@dataclass
class RunningBlock:
    """A block that has processes, or asked for them; at most one leg of it runs."""

    began: float  # when it was handed out, or its nodes were there; once it runs, when the turn of its trial came
    process: str = ""  # its trial process, a new one after the first was killed
    group: str = ""  # the process group whose word counts
    last_cut: str = ""  # the last process group that was lost
    placement: Placement | None = None  # of that group
    node_ids: list[str] = field(default_factory=list)  # Ray's, of the nodes of that group
    leg_id: str = ""  # the leg that the group has begun and not ended
    leg_began: float = 0.0
    start_seconds: float | None = None  # until its first leg began; kept until a row holds it
    leg_started_at: float = 0.0  # by the calendar, seconds since the epoch
    node: str = ""  # of that leg, as people name it
    given_up: list[str] = field(default_factory=list)  # its trials of which nothing more is run


@dataclass
class Running:
    """The blocks so far, those that run, and whether no further leg is to begin."""

    path: Path
    incarnation: int = 1  # of the recorder: one more each time that it was started
    wrote: bool = False  # whether a row was written: the ledger must be there
    draining: bool = False
    blocks: list[list[str]] = field(default_factory=list)  # by number, the trials of each that was handed out
    active: dict[int, RunningBlock] = field(default_factory=dict)  # by number
    wanted: dict[str, int] | None = None  # how many trials of each setting are to run; None: all of the plan's
    steps: dict[str, StepChoice] = field(default_factory=dict)  # by setting, what `steps: auto` came to
    trouble: str = ""  # why nothing can be kept, as on a full disk

    def stop_for(self, error: OSError | StorageError) -> None:
        """Nothing can be kept any more: no further leg is to begin, and the driver is told why."""
        number = getattr(error, "errno", None)
        self.trouble = self.trouble or (os.strerror(number) if number else first_line(error))
        self.draining = True

    @classmethod
    def load(cls, path: Path) -> Running:
        """What an earlier recorder of the same sweep left; the first one finds nothing."""
        if not path.exists():
            return cls(path)
        state = TypeAdapter(cls).validate_python({**json.loads(path.read_text(encoding="utf-8")), "path": path})
        return replace(state, incarnation=state.incarnation + 1)

    def save(self) -> None:
        """Write it, whole or not at all. It has to outlive this process, not the machine: nothing is flushed."""
        state = {name: value for name, value in asdict(self).items() if name not in ("path", "trouble")}
        aside = self.path.with_name(f".{self.path.name}.writing")
        try:
            aside.write_text(json.dumps(state), encoding="utf-8")
            aside.replace(self.path)
        except FileNotFoundError:
            pass  # the sweep has ended and taken its folder away
        except OSError as error:
            self.stop_for(error)
