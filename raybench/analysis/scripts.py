"""What a reader must know of arms that are scripts: what was timed, and which facts of them nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from raybench.analysis.columns import parse_object
from raybench.analysis.pairs import Pairs


def script_caveats(pairs: Pairs) -> Iterator[tuple[int, str]]:
    """(comparison, sentence) for each side whose script told less than an arm of raybench's own does."""
    column, owner = pairs.legs.text["facts"], pairs.comparison[pairs.round_trial]
    if "not_known" not in "".join(column.names):
        return
    told = [list(_sentences(parse_object(text))) for text in (*column.names, "")]
    arm = pairs.legs.text["arm"]
    for leg, is_base in ((pairs.base_leg, True), (pairs.arm_leg, False)):
        codes = column.codes[leg]
        for k, code in np.unique(np.stack([owner, codes]), axis=1).T:
            name = pairs.baseline if is_base else arm[pairs.example[k]]
            for sentence in told[code]:
                yield int(k), f"{name}: {sentence}"


def _sentences(facts: Mapping[str, Any]) -> Iterator[str]:
    informative = facts.get("informative") or {}
    if facts.get("timed") == "the whole command":
        yield (
            "its script records no steps (raybench.steps), so the whole command was timed, its start and all else that "
            "it does included"
        )
    if unknown := informative.get("not_known"):
        yield f"not known, and so not compared: {', '.join(unknown)}"
    if count := informative.get("left_behind"):
        yield f"{count} of its processes outlived the command and were killed"
