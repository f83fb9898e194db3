"""A calibration for people: the answer in words, then tables."""

from __future__ import annotations

from raybench.calibration.calibration import Calibration, SettingNoise
from raybench.show import units
from raybench.show.document import Block, Cell, Document, Paragraph, Section, Table, columns, row
from raybench.show.units import percent


def build(calibration: Calibration) -> Document:
    """The document: noise, what trials can detect, instruments, and isolation."""
    blocks: list[Block] = [_noise(calibration)]
    blocks += [_outlook(calibration, one) for one in calibration.settings if one.outlook]
    if any(one.instruments for one in calibration.settings):
        blocks.append(_instruments(calibration))
    blocks += [_isolation(one) for one in calibration.settings if one.isolation]
    answer = [Paragraph(in_words(calibration), strong=True)]
    if failed := sum(one.failures for one in calibration.settings):
        told = f"{units.count(failed, 'leg')}, which are not counted; the ledger says why."
        answer.append(Paragraph(told, lead="Failed:", verdict="failed"))
    return Document("Calibration", tuple(answer), (Section("calibration", "What was found", tuple(blocks)),))


def in_words(calibration: Calibration) -> str:
    """One sentence: how small an effect a sweep's trials can detect here."""
    known = [one for one in calibration.settings if one.scatter]
    if not known:
        return "Too few trials were measured to tell the noise of this machine; run at least two, better six."
    worst = max(known, key=lambda one: one.scatter.deviation if one.scatter else 0.0)
    assert worst.scatter
    eight = next(one for one in worst.outlook if one.trials == 8)
    where = f" (the noisiest of {len(known)} settings, {worst.setting})" if len(known) > 1 else ""
    scatter = worst.scatter
    return (
        f"{calibration.baseline} against itself scatters by {percent(scatter.deviation)} from trial to trial{where}, "
        f"or by what lies between {percent(scatter.low)} and {percent(scatter.high)}, as far as {worst.n_trials} "
        f"trials can tell. With 8 trials an arm that is faster by {percent(eight.detectable - 1)} is seen to be so "
        f"with a chance of 80 %; one without any effect is judged “helps” or “hurts” with a chance of "
        f"{percent(eight.false_verdict)}, `no effect` with one of {percent(eight.no_effect)}."
    )


def _noise(calibration: Calibration) -> Table:
    rows = []
    for one in calibration.settings:
        parts, scatter = one.components, one.scatter
        interval = "" if scatter is None else f"{percent(scatter.low)} to {percent(scatter.high)}"
        spreads = (scatter.deviation if scatter else None, parts.trial, parts.round, parts.step, parts.level)
        first, *others = (units.spread(value) for value in spreads)
        verdict = Cell(one.verdict, verdict=one.verdict)
        rows.append(row(one.setting, str(one.n_trials), first, interval, *others, verdict))
    numbers = ("n", "scatter", "95 %", "trials", "rounds", "steps", "level")
    return Table(
        "noise",
        "Noise: standard deviations of log seconds, the baseline against itself",
        columns("setting", *numbers, "verdict", numbers=numbers),
        tuple(rows),
        note="scatter: of a trial's log ratio, all told; trials: what each trial's processes add to it; rounds: from "
        "round to round of a trial; steps: from step to step of a leg; level: of trials' step times, which pairing "
        "takes away",
    )


def _outlook(calibration: Calibration, one: SettingNoise) -> Table:
    rows = [
        row(
            str(each.trials), percent(each.false_verdict), percent(each.no_effect), percent(each.detectable - 1),
            units.duration(each.machine_seconds),
        )
        for each in one.outlook
    ]  # fmt: skip
    numbers = ("false verdict", "judged no effect", "smallest effect seen", "machine time")
    return Table(
        "outlook",
        f"{one.setting}: what trials would see, margin {percent(calibration.margin)}",
        columns("trials", *numbers, numbers=numbers),
        tuple(rows),
        note="false verdict and no effect: chances for an arm that changes nothing; smallest effect: seen with a "
        f"chance of 80 %; machine time: {calibration.num_arms} arms in {calibration.rounds} rounds, each leg as long "
        "as the baseline's",
    )


def _instruments(calibration: Calibration) -> Table:
    rows = []
    for one in calibration.settings:
        for tool in one.instruments:
            ends = [units.signed_percent(end) for end in (tool.low, tool.high)]
            interval = " to ".join(ends) if all(ends) else ""
            rows.append(row(one.setting, tool.name, units.signed_percent(tool.price), interval, str(tool.n_trials)))
    names = columns("setting", "instrument", "price", "interval", "n", numbers=("price", "interval", "n"))
    return Table("instruments", "What the instruments cost, of a step", names, tuple(rows))


def _isolation(one: SettingNoise) -> Paragraph:
    found = one.isolation
    assert found
    return Paragraph(
        f"with processes of its own for each leg a trial scatters by {percent(found.fresh_deviation)} and takes "
        f"{units.duration(found.fresh_trial_seconds)}, with shared ones by {percent(found.shared_deviation)} and "
        f"{units.duration(found.shared_trial_seconds)}: to be as sure, `fresh` must measure {found.variance_ratio:.2g} "
        f"times as long (95 %: {found.low:.2g} to {found.high:.2g})",
        lead=f"{one.setting}:",
    )
