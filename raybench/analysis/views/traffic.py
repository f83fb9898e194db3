"""The minimum that a data-parallel step must move over the link between ranks, and the minimum time for that.

Whatever the engine, gradients are reduced and the result reaches every rank: 2 (n - 1) / n of the model's bytes for
each rank (an all-reduce, or a reduce-scatter and an all-gather). ZeRO-3 and FSDP gather the weights more often, unless
they keep them; so this is a lower bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raybench.analysis.arrays import parse_object
from raybench.analysis.legs import Legs

_BYTES_OF: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_COLLECTIVES: Final = ("all_reduce", "all_gather", "reduce_scatter")


@dataclass(frozen=True)
class LinkFloor:
    """The bytes of a step that cross a rank's link, and the link's highest measured rate."""

    moved_bytes: float
    bytes_per_second: float
    joined: tuple[str, ...] = ()  # how the GPUs of a node are joined, each way once; empty where that is not known

    @property
    def seconds(self) -> float:
        return self.moved_bytes / self.bytes_per_second


def link_floor(legs: Legs, row: int, profile: Mapping[str, object]) -> LinkFloor | None:
    """The floor for a profiled leg; None for one rank, or where facts or links are unknown."""
    facts, workers = parse_object(legs.text["facts"][row]), legs.number["workers"][row]
    parameters = facts.get("num_trainable_parameters")
    reduced = smallest_element(facts.get("communication_dtype"))
    sharded = legs.text["engine"][row] in ("deepspeed", "fsdp")
    gathered = smallest_element(facts.get("parameter_dtype")) if sharded else reduced
    rate = _fastest(profile.get("links"))
    if not isinstance(parameters, int) or reduced is None or gathered is None or rate is None or not workers > 1:
        return None
    pairs = parse_object(legs.text["environment"][row]).get("gpu_links")
    ways = dict.fromkeys(str(pair).partition(" ")[2] for pair in pairs) if isinstance(pairs, list) else {}
    joined = tuple(way for way in ways if way != "not known")
    return LinkFloor((workers - 1) / workers * parameters * (reduced + gathered), rate, joined)


def smallest_element(dtypes: object) -> int | None:
    """Bytes per element of the named type; for several types in one text, of the smallest."""
    known = [_BYTES_OF[name] for name in re.findall(r"\w+", str(dtypes)) if name in _BYTES_OF]
    return min(known, default=None)


def _fastest(links: object) -> float | None:
    """The highest rate, in bytes a second, that a collective reached with the largest buffer tried."""
    if not isinstance(links, Mapping):
        return None
    sizes = [size for name in _COLLECTIVES for size in links.get(name) or [] if isinstance(size, Mapping)]
    largest = max((size.get("bytes") or 0 for size in sizes), default=0)  # small buffers pass a rate limit in a burst
    return max((float(s["busbw"]) for s in sizes if s.get("busbw") and s.get("bytes") == largest), default=None)
