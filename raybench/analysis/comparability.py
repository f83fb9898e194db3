"""Which comparisons are of the same experiment: the facts of both legs of every paired round, held together.

Equal facts cost nothing here: each distinct text of facts is parsed once, each distinct pair compared once.
Besides the facts, the ledger's own columns on batch, workers, precision, model and dataset must agree.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from raybench.analysis.columns import dense, parse_object
from raybench.analysis.inference import Integers
from raybench.analysis.pairs import Pairs
from raybench.declare import experiment

_NUMBERS: Final = ("global_batch", "micro_batch", "accumulation", "workers", "samples_per_step")
_TEXTS: Final = ("model", "dataset", "precision")


def undeclared_differences(pairs: Pairs) -> dict[int, list[str]]:
    """For each comparison that is none: what differs, as `weight_decay: 0.01 in ddp, 0.0 in zero1`."""
    found: dict[int, dict[str, str]] = {}
    for comparison, name, arm_value, base_value in [*_columns(pairs), *_facts(pairs)]:
        arm = pairs.legs.text["arm"][pairs.example[comparison]]
        sentence = f"{name}: {_shown(base_value)} in {pairs.baseline}, {_shown(arm_value)} in {arm}"
        found.setdefault(comparison, {}).setdefault(name, sentence)
    return {comparison: [names[name] for name in sorted(names)] for comparison, names in sorted(found.items())}


def without_facts(pairs: Pairs) -> np.ndarray:
    """Which comparisons have no paired round in which both legs state facts, shape (k,)."""
    column = pairs.legs.text["facts"]
    stated = np.array([bool(parse_object(text)) if len(text) < 20 else True for text in column.names] + [False])
    both = stated[column.codes[pairs.arm_leg]] & stated[column.codes[pairs.base_leg]]
    owner = pairs.comparison[pairs.round_trial]
    return np.asarray(np.bincount(owner[both], minlength=len(pairs.counts)) == 0)


def declared(text: str) -> tuple[str, ...]:
    """What a leg's `differs` column declares, from its joined form."""
    return tuple(word for word in text.split("\n") if word)


def _columns(pairs: Pairs) -> list[tuple[int, str, Any, Any]]:
    legs, owner = pairs.legs, pairs.comparison[pairs.round_trial]
    found: list[tuple[int, str, Any, Any]] = []
    for name in (*_NUMBERS, *_TEXTS):
        values = legs.number[name] if name in _NUMBERS else legs.text[name].codes.astype(float)
        arm, base = values[pairs.arm_leg], values[pairs.base_leg]
        unequal = (arm != base) & np.isfinite(arm) & np.isfinite(base) & ((arm >= 0) & (base >= 0))
        for comparison, row in zip(*np.unique(owner[unequal], return_index=True), strict=True):
            at = np.flatnonzero(unequal)[row]
            if experiment.is_declared(name, declared(legs.text["differs"][pairs.arm_leg[at]])):
                continue
            if name in _NUMBERS:
                found.append((int(comparison), name, int(arm[at]), int(base[at])))
            else:
                texts = legs.text[name]
                found.append((int(comparison), name, texts[pairs.arm_leg[at]], texts[pairs.base_leg[at]]))
    return found


def _facts(pairs: Pairs) -> list[tuple[int, str, Any, Any]]:
    legs, owner = pairs.legs, pairs.comparison[pairs.round_trial]
    column = legs.text["facts"]
    arm, base = column.codes[pairs.arm_leg], column.codes[pairs.base_leg]
    unequal = np.flatnonzero((arm != base) & (arm >= 0) & (base >= 0))
    if not len(unequal):
        return []
    differs, precision = (legs.text[name].codes[pairs.arm_leg[unequal]] for name in ("differs", "precision"))
    case = dense(arm[unequal], base[unequal], differs, precision)
    parsed: dict[int, dict[str, Any]] = {
        int(code): parse_object(column.names[code]) for code in _distinct(arm[unequal], base[unequal])
    }
    rows = np.unique(case, return_index=True)[1]
    verdicts = []
    for row in unequal[rows]:
        leg = pairs.arm_leg[row]
        verdicts.append(
            experiment.differences(
                parsed[int(arm[row])],
                parsed[int(base[row])],
                declared(legs.text["differs"][leg]),
                legs.text["precision"][leg],
            )
        )
    differing = np.array([bool(verdict) for verdict in verdicts])
    concerned = np.flatnonzero(differing[case])
    cases = np.unique(np.stack([owner[unequal[concerned]], case[concerned]]), axis=1)
    return [(int(k), *difference) for k, c in cases.T for difference in verdicts[c]]


def _distinct(*codes: Integers) -> Integers:
    return np.unique(np.concatenate(codes))


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) and abs(value - round(value, 6)) > 1e-9 else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
