"""The answer in plain words, from the verdicts alone: what a reader should take away before any table."""

from __future__ import annotations

from collections.abc import Sequence

from raybench.analysis.results import Analysis, Comparison


def caveat_places(analysis: Analysis) -> dict[str, list[str]]:
    """Each sentence that comparisons carry as a caveat, once, with the comparisons that carry it."""
    places: dict[str, list[str]] = {}
    for comparison in analysis.comparisons:
        for caveat in comparison.caveats:
            places.setdefault(caveat, []).append(f"{comparison.arm}, {comparison.where.setting}")
    return places


def also_differ(analysis: Analysis) -> tuple[str, ...]:
    """What every table and figure must say where the space declares its arms to differ in more than the engine."""
    words = dict.fromkeys(word for comparison in analysis.comparisons for word in comparison.differs)
    return (f"arms also differ in {', '.join(words)}, as the space declares",) if words else ()


def answer_in_words(analysis: Analysis) -> str:
    """A paragraph: one sentence an arm on each hardware, and what could not be decided."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in analysis.comparisons:
        groups.setdefault((comparison.where.hardware, comparison.arm), []).append(comparison)
    several = len({hardware for hardware, _ in groups}) > 1
    sentences = [
        (f"On {hardware or 'hardware that is not named'}, " if several else "")
        + _arm_sentence(arm, members, analysis.margin)
        for (hardware, arm), members in groups.items()
    ]
    if sum(c.verdict == "helps" for c in analysis.comparisons) == 0 and len(analysis.arms) > 1:
        margin = percent(analysis.margin)
        sentences.append(f"No arm is shown to be faster than {analysis.baseline} by more than {margin}.")
    return " ".join(sentences)


def _arm_sentence(arm: str, members: Sequence[Comparison], margin: float) -> str:
    """As `zero3 hurts 5 of 6 settings, by 28 % to 41 %; it has no effect beyond 3 % on 1.`"""
    by_verdict: dict[str, list[Comparison]] = {}
    for comparison in members:
        by_verdict.setdefault(comparison.verdict, []).append(comparison)
    parts = [
        _part(verdict, by_verdict[verdict], len(members), margin)
        for verdict in (
            "helps",
            "hurts",
            "no effect",
            "unlocks",
            "blocked",
            "failed",
            "both failed",
            "not comparable",
            "undecided",
        )
        if verdict in by_verdict
    ]
    worse = sum(c.quality == "worse" for c in members)
    if worse:
        parts.append(f"is less accurate than the baseline on {worse} of {len(members)}")
    return f"{arm} {'; it '.join(parts)}."


def _part(verdict: str, members: Sequence[Comparison], total: int, margin: float) -> str:
    count = len(members)
    where = (
        ("the one setting" if total == 1 else f"all {total} settings")
        if count == total
        else (f"{count} of {total} settings")
    )
    match verdict:
        case "helps":
            return f"helps {where}, by {change_range(members)}"
        case "hurts":
            return f"hurts {where}, by {change_range(members)}"
        case "no effect":
            return f"has no effect beyond {percent(margin)} on {where}"
        case "unlocks":
            return f"unlocks {where}, where only it ran"
        case "blocked":
            return f"is blocked on {where}, where only the baseline ran"
        case "failed":
            causes = dict.fromkeys(
                f"{cause.arm}: {cause.kind}" for comparison in members for cause in comparison.failure_causes
            )
            return f"cannot be compared on {where}, where one side failed ({', '.join(causes)})"
        case "both failed":
            return f"failed, and so did the baseline, on {where}"
        case "not comparable":
            return f"is not comparable on {where}, where the arms were not the same experiment"
    needed = [c.judgement.trials_needed for c in members if c.judgement.trials_needed]
    settle = ""
    if needed:
        most, least = max(needed), min(needed)
        settle = (
            f" (about {least} trials would settle {'it' if count == 1 else 'them'})"
            if most == least
            else (
                f" (about {least} to {most} trials would settle {'them' if len(needed) == count else 'most of them'})"
            )
        )
    return f"is undecided on {where}{settle}"


def change_range(members: Sequence[Comparison]) -> str:
    """The least and the greatest change in throughput, as `28 % to 41 %`."""
    changes = sorted(abs(c.speedup.value - 1) for c in members if c.speedup.value is not None)
    low, high = percent(changes[0]), percent(changes[-1])
    return low if low == high else f"{low} to {high}"


def percent(share: float) -> str:
    """A share for reading: `3 %`, `2.5 %`, `41 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or abs(value - round(value)) < 0.05 else f"{value:.1f} %"


def trade_off(c: Comparison) -> str | None:
    """What a setting's speed was paid with or gained besides, as `zero3 costs 38 % [31, 44] of the throughput of
    resnet18 and saves 5.10 GiB [5.01 GiB, 5.19 GiB] of device memory`; None where memory differs by under 1 %, or
    not beyond its noise.
    """
    if (
        c.speedup.value is None
        or c.memory.ratio.value is None
        or c.memory.saved.value is None
        or abs(c.memory.ratio.value - 1) < 0.01
    ):
        return None
    least, most = c.memory.ratio.low, c.memory.ratio.high
    if least is not None and most is not None and least < 1 < most:
        return None
    change = c.speedup.value - 1
    speed = f"{'gains' if change > 0 else 'costs'} {percent(abs(change))}"
    if c.speedup.low is not None and c.speedup.high is not None:
        sign = 100 if change > 0 else -100
        ends = sorted((sign * (c.speedup.low - 1), sign * (c.speedup.high - 1)))
        speed += f" [{ends[0]:.0f}, {ends[1]:.0f}]"
    saved = c.memory.saved.value
    memory = f"{'saves' if saved > 0 else 'takes'} {size(abs(saved))}"
    if c.memory.saved.low is not None and c.memory.saved.high is not None:
        low, high = sorted(end if saved > 0 else -end for end in (c.memory.saved.low, c.memory.saved.high))
        memory += f" [{size(low)}, {size(high)}]"
    more = "of" if saved > 0 else "more"
    return f"{c.arm} {speed} of the throughput of {c.where.setting} and {memory} {more} {c.memory.of} memory"


def memory_held(c: Comparison) -> str | None:
    """As `zero1 in resnet18: a rank holds optimizer state 85.3 MiB against 170.6 MiB`: what differs; else None."""
    if c.treated.memory_parts is None or c.baseline.memory_parts is None or not c.n_trials:
        return None
    both = [part for part in c.treated.memory_parts if part in c.baseline.memory_parts]
    differing = [
        f"{part.replace('_', ' ')} {size(c.treated.memory_parts[part])} against {size(c.baseline.memory_parts[part])}"
        for part in both
        if abs(c.treated.memory_parts[part] - c.baseline.memory_parts[part])
        > 0.01 * sum(c.baseline.memory_parts.values())
    ]
    return f"{c.arm} in {c.where.setting}: a rank holds {', '.join(differing)}" if differing else None


def work_done(c: Comparison) -> str | None:
    """As `zero1 in resnet18: 1.21 TFLOP/s, 61 % of the peak; ddp 1.30 TFLOP/s, 65 %; the peak is ...`; else None."""
    if c.treated.tflops is None or c.baseline.tflops is None:
        return None
    sides = [
        f"{tflops:.3g} TFLOP/s" + ("" if share is None else f" ({percent(share)} of the peak)")
        for tflops, share in ((c.treated.tflops, c.treated.peak_share), (c.baseline.tflops, c.baseline.peak_share))
    ]
    peak = "" if c.peak is None else f"; the peak is {c.peak}"
    return f"{c.arm} in {c.where.setting}: {sides[0]} against {sides[1]}{peak}"


def break_even(c: Comparison) -> str | None:
    """As `zero1 in resnet18: a longer set-up is repaid after 1,200 steps [900, 1,700]`; else None."""
    if c.verdict != "helps" or not c.break_even.value:
        return None
    low = "0" if c.break_even.low is None else f"{c.break_even.low:,.0f}"
    high = "?" if c.break_even.high is None else f"{c.break_even.high:,.0f}"
    return (
        f"{c.arm} in {c.where.setting}: a longer set-up is repaid after {c.break_even.value:,.0f} steps [{low}, {high}]"
    )


def size(num_bytes: float) -> str:
    """Bytes for reading, in MiB or GiB."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes:.1f} MiB" if abs(mebibytes) < 1024 else f"{mebibytes / 1024:.2f} GiB"
