"""Other measured quantities: those with a `report` heading in QUANTITIES, as means over legs.

A measured quantity with a heading is shown without further code. The network between nodes, an object, is split into
its values here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raybench.analysis.arrays import dense, parse_object, rows_by_group
from raybench.analysis.legs import Legs
from raybench.ledger.quantities import QUANTITIES


@dataclass(frozen=True)
class Further:
    """One quantity of one arm in one setting."""

    setting_id: str
    setting: str
    arm: str
    quantity: str  # the column's name
    heading: str
    unit: str
    mean: float  # over the legs that have a value
    num_legs: int


@dataclass(frozen=True)
class NetworkSpeed:
    """How the nodes of a trial were joined."""

    backend: str
    interfaces: tuple[str, ...]
    all_reduce_bytes: int  # of the largest buffer tried
    bus_bytes_per_second: float  # mean over the sets of processes; defined as in nccl-tests


def further_quantities(legs: Legs) -> tuple[Further, ...]:
    """Every quantity with a heading, by setting, arm and the ledger's column order."""
    shown = [q for q in QUANTITIES.values() if q.report and np.isfinite(legs.number[q.name]).any()]
    setting, arm = legs.text["setting_id"], legs.text["arm"]
    found = []
    for rows in rows_by_group(dense(setting.codes, arm.codes)) if shown else ():
        for quantity in shown:
            known = legs.number[quantity.name][rows]
            known = known[np.isfinite(known)]
            if len(known):
                found.append(
                    Further(
                        setting_id=setting[rows[0]],
                        setting=legs.text["setting"][rows[0]],
                        arm=arm[rows[0]],
                        quantity=quantity.name,
                        heading=quantity.report,
                        unit=quantity.unit,
                        mean=float(known.mean()),
                        num_legs=len(known),
                    )
                )
    return tuple(found)


def networks(legs: Legs) -> tuple[NetworkSpeed, ...]:
    """The networks between the nodes of trials, each once; empty where every trial had one node."""
    speeds: dict[tuple[str, tuple[str, ...], int], list[float]] = {}
    for text in legs.text["network"].names:
        network = parse_object(text)
        try:
            largest = max(network["all_reduce"], key=lambda size: size["bytes"])
            interfaces = tuple(sorted({str(place["interface"]) for place in network["interfaces"]}))
            key = (str(network["backend"]), interfaces, int(largest["bytes"]))
            speeds.setdefault(key, []).append(float(largest["busbw"]))
        except (KeyError, TypeError, ValueError):
            continue  # written by another tool
    return tuple(NetworkSpeed(*key, float(np.mean(values))) for key, values in sorted(speeds.items()))
