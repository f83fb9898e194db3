"""The largest batches that arms took (`batch_size: max`), and the evidence that they are the largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raybench.analysis.columns import dense, parse_object
from raybench.analysis.legs import Legs


@dataclass(frozen=True)
class LargestBatch:
    """What was found for one arm of a setting on one hardware."""

    hardware: str
    setting_id: str
    setting: str
    arm: str
    micro_batch: int | None  # images a worker; None where not even one fits
    global_batch: int | None
    num_probes: int
    peak_bytes: int | None  # of the worker with most, at that batch
    refused_batch: int | None  # the smallest micro-batch that did not fit; None where the dataset was the end
    refused_because: str | None

    def sentence(self) -> str:
        """As `zero1 in resnet18 ...: 48 images a worker, 96 in all (1,872 MiB); 49 do not fit: ...`."""
        where = f"{self.arm} in {self.setting}"
        peak = "" if self.peak_bytes is None else f" ({self.peak_bytes / 2**20:,.0f} MiB)"
        took = f"{self.micro_batch} images a worker, {self.global_batch} in all{peak}"
        if self.micro_batch is None:
            return f"{where}: no batch fits, not even one image: {self.refused_because}"
        if self.refused_batch is None:
            return f"{where}: {took}; the dataset has no more for one step"
        return f"{where}: {took}; {self.refused_batch} do not fit: {self.refused_because}"


def largest_batches(legs: Legs) -> tuple[LargestBatch, ...]:
    """One record for each arm whose largest batch was sought, by hardware, setting and arm."""
    text = legs.text
    sought = np.flatnonzero(text["batch_probes"].codes >= 0)
    if not len(sought):
        return ()
    group = dense(*(column.codes[sought] for column in (legs.hardware, text["setting_id"], text["arm"])))
    found = []
    for row in sought[np.unique(group, return_index=True)[1]]:
        evidence = parse_object(text["batch_probes"][row])
        size, probes = evidence.get("micro_batch"), evidence.get("probes") or []
        refused: dict[str, Any] = min((p for p in probes if not p["fits"]), key=lambda p: p["micro_batch"], default={})
        taken: dict[str, Any] = next((p for p in probes if p["micro_batch"] == size), {})
        batch = legs.number["global_batch"][row]
        found.append(
            LargestBatch(
                legs.hardware[row], text["setting_id"][row], text["setting"][row], text["arm"][row], size,
                int(batch) if np.isfinite(batch) else None, len(probes), taken.get("peak_bytes"),
                refused.get("micro_batch"), refused.get("reason"),
            )
        )  # fmt: skip
    return tuple(found)
