"""Which trials a sweep with `repeats: {min, max}` still needs: looks at its ledger, recorded beside it.

    stopping = Stopping.of(space_yaml, folder)             # None: the sweep has a fixed number of trials
    while stopping.wanted(setting_ids):                    # {setting_id: trials in all}, of settings that are open
        ...run the trials with a repeat below their setting's number in `stopping.due` that the ledger lacks...
        stopping.look()                                    # when all of them have ended, whatever came of them

A new `Stopping` continues where the record ends, so a resumed sweep takes the remaining looks. No Ray here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import yaml

from raybench.analysis.analysis import analyse
from raybench.declare.repeats import Look, Repeats, schedule
from raybench.errors import UserError
from raybench.statistics.looks import (
    LOOKS_FILE,
    LookRecord,
    differing_looks,
    next_trials,
    read_looks,
    record_look,
    to_json,
    trials_due,
)
from raybench.stores.storage import AnyPath, write_whole


class Stopping:
    """The looks of one sweep: those taken, and the settings that they leave open."""

    def __init__(self, repeats: Repeats, folder: AnyPath) -> None:
        """`folder` is the ledger's. Raises UserError where the record of looks is unreadable, or has other looks than
        these repeats make: together they might spend more than alpha."""
        self.looks = schedule(repeats.min, repeats.max)
        self.folder = folder
        self.taken = read_looks(folder)
        if [(one.trials, one.share) for one in self.taken] != [(look.trials, look.share) for look in self.looks][
            : len(self.taken)
        ]:
            raise _changed(folder, self.taken)

    @classmethod
    def of(cls, space_yaml: str, folder: AnyPath) -> Stopping | None:
        """The stopping of a sweep, from the text of its `_space.yaml`; None where its number of trials is fixed.

        Raises UserError as `Stopping` does, and where looks were taken although the number is now fixed.
        """
        repeats = (yaml.safe_load(space_yaml) or {}).get("repeats")
        if isinstance(repeats, dict):
            return cls(Repeats.model_validate(repeats), folder)
        if taken := read_looks(folder):
            raise _changed(folder, taken)
        return None

    def wanted(self, settings: Iterable[str]) -> dict[str, int]:
        """How many trials in total each of the plan's settings should have by the next look; empty when done."""
        return next_trials(settings, self.looks, self.taken)

    def due(self, settings: Iterable[str]) -> dict[str, int]:
        """How many trials in total each of the plan's settings should have by now, including settled settings."""
        return trials_due(settings, self.looks, self.taken)

    def look(self) -> LookRecord | None:
        """Look at the ledger, record the result and return it; None where the ledger has no rows yet."""
        if not any(self.folder.glob("*.parquet")):
            return None
        record = take_look(self.folder, self.looks[len(self.taken)], self.taken)
        self.taken = (*self.taken, record)
        write_whole(self.folder / LOOKS_FILE, to_json(self.taken) + "\n")
        return record


def _changed(folder: AnyPath, taken: Sequence[LookRecord]) -> UserError:
    after = ", ".join(str(one.trials) for one in taken)
    return UserError(
        f"repeats: {folder} was looked at after {after} trials, but these repeats plan other looks; give the repeats "
        "that it began with, or start a new sweep with sweep=NAME"
    )


def take_look(folder: AnyPath, look: Look, taken: Sequence[LookRecord]) -> LookRecord:
    """The result of a look at the ledger after those taken. Raises UserError as reading ledgers does."""
    before = tuple(Look(one.trials, one.share) for one in taken)
    found = analyse([folder], looks=(*before, look)).comparisons
    return record_look(look, [(c.where.setting_id, c.arm, c.verdict) for c in found])


def check_looks(folder: AnyPath) -> list[str]:
    """How the stored looks differ from those that the ledger's rows give, one sentence each; empty where they agree."""
    stored = read_looks(folder)
    rebuilt: list[LookRecord] = []
    for one in stored:
        rebuilt.append(take_look(folder, Look(one.trials, one.share), rebuilt))
    return differing_looks(stored, rebuilt)
