"""A chain of arms taken apart: how much of the whole speedup each rung brought.

All arms of the chain are measured within a round, so every rung's log ratio comes from the same rounds, and the rungs
add up to the total exactly: by trial, by setting, and over the settings. Costs are seconds a sample, since rungs may
change the batch. Intervals are paired t over trials; over settings, t on setting means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from raybench.analysis.arrays import dense, parse_object
from raybench.analysis.legs import Legs
from raybench.analysis.pairs import Pairs, log_speedup, mean_by
from raybench.errors import UserError
from raybench.statistics.estimate import Estimate, ratio_estimates
from raybench.statistics.inference import Floats, t_interval
from raybench.text import suggest


@dataclass(frozen=True)
class Rung:
    """One step of the chain, from `before` to `arm`; `change` says what changed."""

    before: str
    arm: str
    change: str
    ratio: Estimate  # seconds of `before` over those of `arm`

    COLUMNS: ClassVar[Mapping[str, str]] = {
        "before": "before",
        "arm": "arm",
        "change": "change",
        "ratio": "ratio.value",
        "ci_low": "ratio.low",
        "ci_high": "ratio.high",
    }


@dataclass(frozen=True)
class Ladder:
    """A chain in one setting, or over all settings (`setting` is empty): the ratios multiply to the total."""

    hardware: str
    setting_id: str
    setting: str
    n: int  # trials, or settings
    total: Estimate
    rungs: tuple[Rung, ...]

    COLUMNS: ClassVar[Mapping[str, str]] = {
        "hardware": "hardware",
        "setting_id": "setting_id",
        "setting": "setting",
        "n": "n",
        "total": "total.value",
        "ci_low": "total.low",
        "ci_high": "total.high",
        "rungs": "rungs",
    }


def find_chain(legs: Legs, arms: Sequence[str]) -> tuple[str, ...]:
    """The chain, checked. Raises UserError for fewer than two arms, one named twice, or one without legs."""
    present = [legs.text["arm"].names[code] for code in np.unique(legs.text["arm"].codes)]
    for arm in arms:
        if arm not in present:
            raise UserError(f"ladder: no leg of arm {arm!r}; {suggest(arm, present)}")
    if len(set(arms)) != len(arms) or len(arms) < 2:
        raise UserError("ladder= takes two arms or more in their order, each once, as in ladder=ddp,zero1,zero3")
    return tuple(arms)


def declared_chain(legs: Legs) -> tuple[str, ...]:
    """The chain that the ledger itself states, in each arm's `chain` configuration; empty where it has none."""
    arm, config = legs.text["arm"], legs.text["arm_config"]
    places = {}
    for arm_code, config_code in np.unique(np.column_stack([arm.codes, config.codes]), axis=0):
        place = parse_object(config.names[config_code]).get("chain") if config_code >= 0 else None
        if isinstance(place, int):
            places[arm.names[arm_code]] = place
    chain = tuple(sorted(places, key=lambda name: places[name]))
    return chain if len(chain) > 1 else ()


def decompose(pairs: Pairs, cost: Floats, arms: Sequence[str], alpha: float, *, of_steps: bool) -> tuple[Ladder, ...]:
    """The chain in every setting in which all its arms were measured, then over the settings by hardware.

    `cost` is that of `pairs` by leg, (legs,); a cost `of_steps` is divided by the samples a step.
    """
    legs, rounds = pairs.legs, pairs.rounds_of(arms)
    if not len(rounds):
        return ()
    samples = legs.number["samples_per_step"]
    known = np.where((samples > 0) & of_steps, samples, 1.0)
    before, after, leg = rounds[:, :-1], rounds[:, 1:], rounds[:, -1]
    logs = log_speedup(cost[before], cost[after], known[before], known[after])
    block, sample = dense(legs.hardware.codes, legs.text["setting_id"].codes)[leg], pairs.samples.sample[leg]
    width = int(sample.max()) + 1
    keys, of_round = np.unique(block * width + sample, return_inverse=True)
    trials = np.stack([mean_by(of_round, column, len(keys)) for column in logs.T], axis=1)
    ladders = []
    means: dict[str, list[Floats]] = {}
    for one in np.unique(block):
        example = rounds[np.argmax(block == one)]
        d = trials[keys // width == one]
        text, hardware = legs.text, legs.hardware[example[0]]
        place = hardware, text["setting_id"][example[0]], text["setting"][example[0]]
        ladders.append(_ladder(*place, d, arms, _changes(legs, example), alpha))
        means.setdefault(hardware, []).append(d.mean(axis=0))
    for hardware, members in means.items():
        if len(members) > 1:
            ladders.append(_ladder(hardware, "", "", np.stack(members), arms, [""] * (len(arms) - 1), alpha))
    return tuple(ladders)


def _ladder(
    hardware: str, setting_id: str, setting: str, d: Floats, arms: Sequence[str], changes: Sequence[str], alpha: float
) -> Ladder:
    """From (n, rungs) log ratios."""
    n = len(d)
    columns = np.column_stack([d, d.sum(axis=1)])
    mean = columns.mean(axis=0)
    deviation = columns.std(axis=0, ddof=1) if n > 1 else np.full(len(mean), np.nan)
    low, high = t_interval(np.full(len(mean), n), mean, deviation, alpha)
    *ratios, total = ratio_estimates(mean, low, high, level=1 - alpha, n=n)
    rungs = tuple(Rung(*step) for step in zip(arms[:-1], arms[1:], changes, ratios, strict=True))
    return Ladder(hardware, setting_id, setting, n, total, rungs)


def _changes(legs: Legs, example: Sequence[int]) -> list[str]:
    """What changed from each arm to the next, in words, from the ledger; `example` has one leg per arm."""
    return [", ".join(_differences(legs, int(before), int(after))) for before, after in pairwise(example)]


def _differences(legs: Legs, before: int, after: int) -> Iterator[str]:
    for name in ("global_batch", "micro_batch", "workers"):
        one, other = legs.number[name][before], legs.number[name][after]
        if np.isfinite(one) and np.isfinite(other) and one != other:
            yield f"{name} {one:.0f} -> {other:.0f}"
    for name in ("precision", "engine"):
        if legs.text[name][before] != legs.text[name][after]:
            yield f"{name} {legs.text[name][before]} -> {legs.text[name][after]}"
    one_config, other_config = (parse_object(legs.text["arm_config"][leg]) for leg in (before, after))
    for key in sorted(one_config.keys() | other_config.keys()):
        if key not in ("engine", "chain") and one_config.get(key) != other_config.get(key):
            text = json.dumps(other_config.get(key), sort_keys=True)
            yield f"{key} {text if len(text) <= 60 else text[:57] + '...'}"
