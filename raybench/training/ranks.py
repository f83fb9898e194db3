"""The ranks of a training group as the legs use them: a control channel beside the engines' communication."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from raybench.errors import RanksParted

_PATIENCE_SECONDS = 30.0  # how long a failed rank waits for the others to leave the leg


@dataclass(frozen=True)
class Ranks:
    """An existing process group. The control channel uses gloo, whatever the engines use."""

    rank: int
    world: int
    device: torch.device
    control: Any  # torch.distributed.ProcessGroup, or None in a single process
    patience_seconds: float = _PATIENCE_SECONDS

    @classmethod
    def joined(cls, device: torch.device, timeout_seconds: float) -> Ranks:
        """The ranks of the initialized process group, or of a single process where there is none.

        `timeout_seconds` is a leg's limit; the control channel waits a minute longer, so that the limit applies first.
        """
        if not dist.is_initialized():
            return cls(0, 1, device, None)
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds + 60))
        patience = min(_PATIENCE_SECONDS, timeout_seconds / 4)
        return cls(dist.get_rank(), dist.get_world_size(), device, control, patience)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.control is not None:
            dist.barrier(group=self.control)

    def settle(self) -> None:
        """Wait until this rank's device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def meet(self, failed: bool) -> None:
        """Wait at a leg's end until every rank is here; a failed rank waits only half a minute.

        Raises RanksParted when the others do not come: this rank failed alone, and they wait for it in a collective of
        the leg.
        """
        if self.control is None:
            return
        meeting = dist.barrier(group=self.control, async_op=True)
        deadline = time.monotonic() + self.patience_seconds
        while failed and not meeting.is_completed():
            if time.monotonic() > deadline:
                raise RanksParted(f"the other ranks did not finish the leg within {self.patience_seconds:.0f} s")
            time.sleep(0.05)
        try:
            meeting.wait()
        except RuntimeError as error:
            raise RanksParted(str(error)) from error

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values
