"""Caveats for arms that are scripts: what was timed, and which of their facts are unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from raybench.analysis.arrays import parse_object
from raybench.analysis.pairs import Pairs
from raybench.caveats import Caveat, caveat

_WHOLE: Final = "the whole command"  # timed where a script records no steps


def script_caveats(pairs: Pairs) -> Iterator[tuple[int, Caveat]]:
    """(comparison, caveat) for each side whose script reported less than raybench's own arms do."""
    column, owner = pairs.legs.text["facts"], pairs.comparison[pairs.round_trial]
    if "not_known" not in "".join(column.names):
        return
    told = [list(_of_facts(parse_object(text))) for text in (*column.names, "")]
    arm = pairs.legs.text["arm"]
    for leg, is_base in ((pairs.base_leg, True), (pairs.arm_leg, False)):
        codes = column.codes[leg]
        for k, code in np.unique(np.stack([owner, codes]), axis=1).T:
            name = pairs.baseline if is_base else arm[pairs.example[k]]
            for kind, values in told[code]:
                yield int(k), caveat(kind, arm=name, **values)


def _of_facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    informative = facts.get("informative") or {}
    if facts.get("timed") == _WHOLE:
        yield "whole_command", {}
    if unknown := informative.get("not_known"):
        yield "facts_not_known", {"facts": unknown}
    if count := informative.get("left_behind"):
        yield "processes_left", {"processes": count}
