"""Where an arm's time goes, from its profiled leg: the parts of a step, and why it differs from the baseline's.

A profiled leg (`profiled` in its row) explains and never counts in a speedup. Its parts are scaled to the step without
a profiler. The words come from rules over measured parts; where no rule fits, the cause is unknown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from raybench.analysis.arrays import code_of, parse_object
from raybench.analysis.legs import Legs
from raybench.analysis.views.traffic import LinkFloor, link_floor
from raybench.ledger.parts import COMMUNICATION, OTHER, PARTS, WAITING, Kind
from raybench.text import in_percent

_SAME: Final = 0.05  # of the baseline's step; a profile of a few steps cannot resolve smaller parts
_WORTH_NAMING: Final = 0.1  # of the whole difference
_MOSTLY, _ALL = 0.6, 0.9  # shares of the difference that come from one kind of part
_APART: Final = 0.25  # a profiled step further than this from the measured legs' saw another machine state
_OF_BYTES: Final = 0.25  # of exposed communication: if the link could carry the bytes in less, they are not the cause
# Reasons of contamination (`raybench.telemetry.contamination`) that make all parts longer, nobody knows by how much.
_HELD_BACK: Final = ("CPU limit of the container", "CPU clock drop", "GPU clock drop", "GPU throttled")
_PLACES: Final[Mapping[Kind, str]] = {
    "host": "on the host", "computing": "in its operators", "communication": "in communication that nothing hides",
    "data": "in the wait for data",
}  # fmt: skip
_HELPS: Final[Mapping[Kind, str]] = {
    "host": "A larger batch would make it a smaller share of a step.",
    "computing": "Why the operators take longer is not known from this; compare the two traces.",
    "communication": "Fewer bytes, a faster link, or more to compute meanwhile would shorten it.",
    "data": "More setting.loader_workers, or a larger prefetch_factor, may shorten it.",
}


@dataclass(frozen=True)
class Explanation:
    """One arm in one setting: a step's seconds by activity, and a text."""

    setting_id: str
    setting: str
    arm: str
    step_seconds: float  # of the profiled leg without its profiler, mean of its measured steps
    parts: dict[str, float]  # seconds a step by name, the largest first
    log_ratio: dict[str, float]  # of baseline to arm, divided among the parts, summing to it; empty for the baseline
    sentence: str
    profiled_step_seconds: float | None = None  # under the profiler
    busy_share: float | None = None  # share of the step in which the accelerator was busy; None without one
    kernels: float | None = None  # a step; None without an accelerator
    host_calls: float | None = None  # operators a step
    missing: tuple[str, ...] = ()  # what the profiler could not measure
    link: str = ""  # bytes that the arm's step moves over its link, and the minimum time for that


@dataclass(frozen=True)
class _Profile:
    seconds: float
    parts: dict[str, float]
    told: Mapping[str, object]
    usual_seconds: float | None  # of the arm's measured legs in the setting
    link_floor: LinkFloor | None
    disturbed: tuple[str, ...] | None  # why the leg is contaminated; empty where it is clean, None where not known

    def number(self, name: str) -> float | None:
        value = self.told.get(name)
        return float(value) if isinstance(value, int | float) else None


def profiled(legs: Legs) -> np.ndarray:
    """Which legs ran under the profiler, shape (legs,)."""
    profile = legs.text["profile"]
    told = (profile.codes >= 0) & (profile.codes != code_of(profile, ""))
    return np.asarray(told | (legs.number["profiled"] == 1.0))


def explain(legs: Legs, baseline: str) -> tuple[Explanation, ...]:
    """An explanation for each arm and setting with a profiled leg that has parts; the first of several."""
    under_profiler = profiled(legs)
    usual: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in np.flatnonzero(~under_profiler & legs.ok) if under_profiler.any() else ():
        usual[legs.text["setting_id"][row], legs.text["arm"][row]].append(float(legs.steps.mean_seconds[row]))
    profiles: dict[tuple[str, str], _Profile] = {}
    names: dict[str, str] = {}
    for row in np.flatnonzero(under_profiler & legs.ok):
        key = (legs.text["setting_id"][row], legs.text["arm"][row])
        told = parse_object(legs.text["profile"][row])
        if parts := _parts(told):
            seconds = float(legs.steps.mean_seconds[row])
            measured = float(np.mean(usual[key])) if usual.get(key) else None
            column = legs.text["contaminated"]
            disturbed = tuple(filter(None, column[row].split("\n"))) if column.codes[row] >= 0 else None
            link = link_floor(legs, int(row), told)
            profiles.setdefault(key, _Profile(seconds, parts, told, measured, link, disturbed))
            names[key[0]] = legs.text["setting"][row]
    return tuple(
        _explained(setting_id, names[setting_id], arm, baseline, profile, profiles.get((setting_id, baseline)))
        for (setting_id, arm), profile in profiles.items()
    )


def _parts(told: Mapping[str, object]) -> dict[str, float]:
    parts = told.get("parts")
    if not isinstance(parts, Mapping):
        return {}
    seconds = {str(name): float(value) for name, value in parts.items() if isinstance(value, int | float)}
    return dict(sorted(seconds.items(), key=lambda part: -part[1]))


def _explained(
    setting_id: str, setting: str, arm: str, baseline: str, profile: _Profile, base: _Profile | None
) -> Explanation:
    missing = profile.told.get("missing")
    compared = base is not None and arm != baseline
    return Explanation(
        setting_id=setting_id,
        setting=setting,
        arm=arm,
        step_seconds=profile.seconds,
        parts=profile.parts,
        log_ratio=shared_out(profile.parts, base.parts) if base is not None and compared else {},
        sentence=f"{_compared(arm, baseline, profile, base) if base is not None and compared else _alone(arm, profile)}"
        f"{_unlike_the_measured(profile)}",
        profiled_step_seconds=profile.number("profiled_step_seconds"),
        busy_share=profile.number("busy_share"),
        kernels=profile.number("kernels"),
        host_calls=profile.number("host_calls"),
        missing=tuple(map(str, missing)) if isinstance(missing, list) else (),
        link=_linked(arm, profile),
    )


def shared_out(parts: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """The log ratio of the baseline's step to the arm's, divided among the parts in proportion to their differences.

    The shares sum to it. The factor is the logarithmic mean of the two steps, which is their common value where they
    are equal.
    """
    whole, base_whole = sum(parts.values()), sum(base.values())
    if whole <= 0 or base_whole <= 0:
        return {}
    mean = whole if math.isclose(whole, base_whole) else (whole - base_whole) / math.log(whole / base_whole)
    names = [name for name in PARTS if name in parts or name in base]
    names += sorted({*parts, *base} - set(names))
    return {name: (base.get(name, 0.0) - parts.get(name, 0.0)) / mean for name in names}


def _alone(arm: str, profile: _Profile) -> str:
    """What most of a step consists of."""
    largest, seconds = next(iter(profile.parts.items()))
    return f"{arm} spends most on {largest}: {_ms(seconds)} of {_ms(profile.seconds)} ms{_busy(profile)}."


def _compared(arm: str, baseline: str, profile: _Profile, base: _Profile) -> str:
    """Why the arm's step is longer or shorter than the baseline's."""
    apart = {name: profile.parts.get(name, 0.0) - base.parts.get(name, 0.0) for name in {*profile.parts, *base.parts}}
    whole, base_whole = sum(apart.values()), sum(base.parts.values())
    if abs(whole) < _SAME * base_whole:
        same = in_percent(_SAME)
        return f"{arm}: a step is as long as one of {baseline}, within {same}; there is nothing to explain."
    longer = whole > 0
    begun = f"{arm} {'adds' if longer else 'takes'} {_ms(abs(whole))} ms {'to' if longer else 'off'} a step of "
    begun += f"{_ms(base_whole)} ms"
    disturbed = [reason for reason in profile.disturbed or () if reason not in (base.disturbed or ())]
    alone = "" if base.disturbed is None else f", and not while {baseline} did"
    seen = f"while it ran{alone}, the machine was disturbed ({', '.join(disturbed)})"
    if any(reason.startswith(_HELD_BACK) for reason in disturbed):
        return f"{begun}: {_listed(apart, whole)}. Why is not known: {seen}."
    caution = f" (Read it with care: {seen}.)" if disturbed else ""
    kinds: dict[Kind, float] = defaultdict(float)
    for name, seconds in apart.items():
        if name in PARTS and name not in (OTHER, WAITING):  # the cause of these is unknown
            kinds[PARTS[name]] += seconds / whole
    kind = max(kinds, key=lambda one: kinds[one], default=None)
    toward = sum(share for share in (*kinds.values(), *_unknown(apart, whole)) if share > 0)
    if kind is None or kinds[kind] < _MOSTLY * toward:
        unknown = "The cause is not known: no one kind of part makes most of it."
        return f"{begun}: {_listed(apart, whole)}. {unknown}{caution}"
    own = {name: seconds for name, seconds in apart.items() if PARTS.get(name) == kind}
    others = {name: seconds for name, seconds in apart.items() if name not in own}
    share = "all of it" if kinds[kind] >= _ALL * toward else "most of it"
    advice = f" {_advice(kind, profile)}" if longer else ""
    parts = f"{_listed(own, whole)}{_beside(others, whole)}{_busy(profile)}"
    return f"{begun}, {share} {_PLACES[kind]}: {parts}.{advice}{caution}"


def _advice(kind: Kind, profile: _Profile) -> str:
    """The advice; faster links are advised only where the bytes can explain the communication time."""
    floor = profile.link_floor
    if kind == "communication" and floor and floor.seconds < _OF_BYTES * profile.parts.get(COMMUNICATION, 0.0):
        return (
            f"The link carries its bytes in about {_ms(floor.seconds)} ms: the rest is many small messages, or ranks "
            "that wait for one another."
        )
    return _HELPS[kind]


def _unknown(apart: Mapping[str, float], whole: float) -> Iterator[float]:
    """The shares of parts whose cause is unknown."""
    yield from (seconds / whole for name, seconds in apart.items() if name not in PARTS or name in (OTHER, WAITING))


def _beside(others: Mapping[str, float], whole: float) -> str:
    """The other changes, including those in the opposite direction."""
    more = _listed(others, whole)
    less = _listed(others, -whole)
    return (f"; beside it {more}" if more else "") + (f"; the other way {less}" if less else "")


def _listed(apart: Mapping[str, float], whole: float) -> str:
    """The parts worth naming, in ms, largest first."""
    named = {name: seconds / whole for name, seconds in apart.items() if seconds / whole >= _WORTH_NAMING}
    texts = [f"{name} {_ms(abs(apart[name]))}" for name in sorted(named, key=lambda name: (-named[name], name))]
    return ", ".join(texts)


def _busy(profile: _Profile) -> str:
    share = profile.number("busy_share")
    return "" if share is None else f"; the accelerator is busy for {in_percent(share)} of the step"


def _three(number: float) -> str:
    """Three digits or more: `0.123`, `11`, `3,200`."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _linked(arm: str, profile: _Profile) -> str:
    """What the step moves over its link; empty where unknown."""
    floor = profile.link_floor
    if floor is None:
        return ""
    exposed = profile.parts.get(COMMUNICATION, 0.0)
    moved, rate = f"{_three(floor.moved_bytes / 1e6)} MB", f"{_three(floor.bytes_per_second / 1e9)} GB/s"
    rate += f" ({' and '.join(floor.joined)})" if floor.joined else ""
    return (
        f"{arm} moves {moved} or more a step over a link of {rate}: at least {_ms(floor.seconds)} ms; communication "
        f"that nothing hides takes {_ms(exposed)} ms"
    )


def _unlike_the_measured(profile: _Profile) -> str:
    """A warning where steps were shorter under the profiler than without it, or where the leg was unlike the others."""
    usual, under_it = profile.usual_seconds, profile.number("profiled_step_seconds")
    if under_it is not None and under_it < (1 - _APART) * profile.seconds:
        return (
            f" (The steps under the profiler took {_ms(under_it)} ms: the machine was not the same; read it with care.)"
        )
    if not usual or abs(profile.seconds / usual - 1) <= _APART:
        return ""
    return (
        f" (Its measured legs take {_ms(usual)} ms a step, the profiled one {_ms(profile.seconds)}: read it with care.)"
    )


def _ms(seconds: float) -> str:
    return f"{float(f'{1e3 * seconds:.3g}'):,g}"
