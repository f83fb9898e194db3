"""An arm's largest batch and how it was found: searched for by workers, kept in rows, passed to later trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from raybench.machine.fingerprint import Fingerprint


@dataclass(frozen=True)
class Probe:
    """One attempt. `peak_bytes` is the maximum over ranks, of the device where there is one."""

    micro_batch: int
    fits: bool
    peak_bytes: int | None
    reason: str | None  # why it does not fit


@dataclass(frozen=True)
class LargestBatch:
    """The result of one arm's search."""

    micro_batch: int | None  # None where not even 1 fits
    memory_limit: int | None  # bytes
    machine: Fingerprint
    probes: tuple[Probe, ...]  # in order


LargestBatches = Mapping[str, Mapping[str, LargestBatch]]  # by setting_id and arm
_LARGEST_BATCH = TypeAdapter(LargestBatch)


def note_batch(batches: dict[str, dict[str, LargestBatch]], row: Mapping[str, Any]) -> None:
    """Add what a ledger row says about the largest batch of its setting and arm, if anything."""
    if row.get("batch_probes"):
        batches.setdefault(row["setting_id"], {})[row["arm"]] = _LARGEST_BATCH.validate_json(row["batch_probes"])
