"""The ranks of a training group as the legs see them: a control channel beside the engines' own communication."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE = timedelta(seconds=30)  # how long a rank that failed waits for the others to come out of the leg


class RanksParted(RuntimeError):
    """The other ranks did not come to the meeting point: they hang in the leg, or are gone."""


@dataclass(frozen=True)
class Ranks:
    """A process group that exists already. The control channel is gloo's, whatever the engines use."""

    rank: int
    world: int
    device: torch.device
    control: Any  # torch.distributed.ProcessGroup, or None in a single process

    @classmethod
    def joined(cls, device: torch.device, timeout_seconds: float) -> Ranks:
        """The ranks of the initialized process group, or of a single process where there is none."""
        if not dist.is_initialized():
            return cls(0, 1, device, None)
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        return cls(dist.get_rank(), dist.get_world_size(), device, control)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.control is not None:
            dist.barrier(group=self.control)

    def meet(self, failed: bool) -> None:
        """Wait at a leg's end until every rank is here; a rank that failed waits half a minute only.

        Raises RanksParted when the others do not come, which is so when this rank failed alone and they wait
        for it inside a collective of the leg.
        """
        if self.control is None:
            return
        try:
            dist.monitored_barrier(group=self.control, timeout=_PATIENCE if failed else None)
        except RuntimeError as error:
            raise RanksParted(str(error)) from error

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values
