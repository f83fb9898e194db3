"""Further sections of an analysis: profiled legs, enough batches, rooflines, other quantities, costs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from raybench.analysis import Analysis
from raybench.analysis.views.costs import Costs
from raybench.analysis.views.enough import EnoughBatch
from raybench.analysis.views.further import Further
from raybench.analysis.views.roofline import Roofline
from raybench.show import units
from raybench.show.document import Block, Cell, Items, Paragraph, Section, Table, columns, row
from raybench.text import in_percent

_MOST_ROWS: Final = 200
_MOST_VERDICTS: Final = 60
_PARTS: Final = {
    "measured steps": "measured_seconds",
    "warm-up": "warmup_seconds",
    "set-up of legs": "setup_seconds",
    "evaluation": "eval_seconds",
    "between legs": "between_seconds",
    "starts of processes": "start_seconds",
    "legs that failed": "failed_seconds",
}


def explanations_in_words(analysis: Analysis) -> list[str]:
    """Where each arm's step time goes: a sentence for each profiled arm and setting, beginning with what explains a
    difference; then what the profiler cost, what the link allows, and what could not be measured."""
    several = len({one.setting_id for one in analysis.explanations}) > 1
    order = sorted(analysis.explanations, key=lambda one: (not one.log_ratio, one.setting, one.arm))
    told = [(f"{one.setting}: " if several else "") + one.sentence for one in order]
    costs = [
        one.profiled_step_seconds / one.step_seconds - 1
        for one in analysis.explanations
        if one.profiled_step_seconds is not None and one.step_seconds
    ]
    if costs:
        least, most = (in_percent(max(0.0, cost)) for cost in (min(costs), max(costs)))
        span = least if least == most else f"{least} to {most}"
        told.append(f"The profiler itself made steps {span} longer; that is taken out of the parts")
    missing = dict.fromkeys(f"{text} ({one.arm})" for one in analysis.explanations for text in one.missing)
    links = [(f"{one.setting}: " if several else "") + one.link for one in order if one.link]
    return [*told, *links, *missing]


def enough_in_words(analysis: Analysis) -> list[str]:
    """The batch at which an arm would be within the margin: a sentence for each setting with several batches
    and each arm that hurts or is undecided at one of them."""
    several = len(analysis.hardware) > 1
    return [_enough(one, analysis) + (f" ({one.hardware})" if several else "") for one in analysis.enough_batches]


def _enough(one: EnoughBatch, analysis: Analysis) -> str:
    fixed = units.cost(one.fixed.value, "step")
    low, high = one.fixed.low or 0.0, one.fixed.high or 0.0
    most = units.cost(high, "step")
    ends = f"{units.cost(low, 'step')} to {most}" if low > 0 else f"at most {most}, and not shown to be above 0"
    batches = ", ".join(map(str, one.batches))
    return (
        f"{one.arm} in {one.setting}: a fixed {fixed} ({ends}) on top of each step. By straight lines "
        f"through batches of {batches} it is within the margin of {units.percent(analysis.margin)} {_from(one)}"
    )


def _from(one: EnoughBatch) -> str:
    found, low = one.batch, max(1, round(one.batch.low or 0))
    if found.value is None:
        return f"at no batch; those below {low:,} are excluded" if low > 1 else "at no batch"
    ends = f"{low:,} or more" if found.high is None else f"{low:,} to {found.high:,.0f}"
    beyond = ", beyond those measured" if found.value > max(one.batches) else ""
    return f"from a batch of about {found.value:,.0f} on ({ends}){beyond}"


def roofline_table(analysis: Analysis) -> Table | None:
    """A step's minimum time on this machine, and how close each arm comes to it; None without rates and energy."""
    shown = analysis.rooflines[:_MOST_ROWS]
    if not shown:
        return None
    heads = ("step", "floor", "share", "energy a sample")
    rows = [
        row(
            one.setting,
            one.arm,
            _cell(one.step_seconds, units.cost(one.step_seconds, "step")),
            _cell(one.floor_seconds, units.cost(one.floor_seconds, "step")),
            _bound(one),
            _cell(one.floor_share, "" if one.floor_share is None else units.percent(one.floor_share)),
            _cell(one.joules_per_sample, "" if one.joules_per_sample is None else f"{one.joules_per_sample:.3g} J"),
        )
        for one in shown
    ]
    names = columns("setting", "arm", "step", "floor", "set by", "share", "energy a sample", numbers=heads,
                    folds=("setting",))  # fmt: skip
    return Table(
        "roofline",
        "How near a step is to what the machine can do",
        names,
        tuple(rows),
        note="Floor: the longer of the step's operations at the rate of the matrix product, and the least bytes of "
        "weights, gradients and optimizer states at the rate of the copy, that the workers reached here; activations "
        "are left out. Share: the floor's, of the arm's step. Energy: of the GPUs in the measured steps.",
    )


def _bound(one: Roofline) -> str:
    if one.floor_seconds is None:
        return ""
    return "operations" if one.floor_seconds == one.compute_seconds else "memory"


def _cell(value: float | None, text: str) -> Cell:
    return Cell(text, "" if value is None else repr(value))


def further_blocks(analysis: Analysis) -> Iterator[Block]:
    """What else was measured: a row per arm and setting, a column per quantity of QUANTITIES with a `report` heading;
    then a line for each network between nodes."""
    headings = list(dict.fromkeys(one.heading for one in analysis.further))
    found: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for one in analysis.further:
        cells = found.setdefault((one.setting_id, one.setting, one.arm), {})
        cells[one.heading] = Cell(_quantity(one), repr(one.mean))
    if found:
        rows = [
            row(setting, arm, *(cells.get(heading, Cell("")) for heading in headings))
            for (_, setting, arm), cells in list(found.items())[:_MOST_ROWS]
        ]
        names = columns("setting", "arm", *headings, numbers=tuple(headings), folds=("setting",))
        yield Table("further", "What else was measured", names, tuple(rows), note="Means over the measured legs.")
    if analysis.networks:
        lines = [
            f"{one.backend} over {', '.join(one.interfaces)}: an all-reduce of {units.size(one.all_reduce_bytes)} "
            f"at {units.size(one.bus_bytes_per_second)}/s (bus bandwidth)"
            for one in analysis.networks
        ]
        yield Items("The network between nodes", tuple(lines))


def _quantity(one: Further) -> str:
    if one.unit == "bytes":
        return units.size(one.mean)
    if one.unit == "J":
        return units.energy(one.mean)
    return f"{one.mean:.3g} {one.unit}".strip()


def cost_section(analysis: Analysis, price: float | None = None) -> Section:
    """Where the machine time went: time, energy and (with the price of a machine's hour) money; each verdict's cost."""
    whole = *cost_blocks(analysis, price), *_gaps(analysis.costs)
    return Section("costs", "Where the machine time went", whole)


def _gaps(costs: Costs) -> Iterator[Paragraph]:
    """How long blocks took to start, and what a leg takes besides its steps, set-up and evaluation."""
    if costs.num_between:
        each = units.cost(costs.between_seconds / costs.num_between, "leg")
        yield Paragraph(f"Between legs stand models, facts, hashes, checks, tear-down and rows: {each} a leg.")
    if starts := costs.block_starts:
        usual = units.cost(median(starts), "start")
        longest = f", at most {units.cost(max(starts), 'start')}" if len(starts) > 1 else ""
        of = units.count(len(starts), "block")
        yield Paragraph(f"From Ray Tune's choice of a block to its first leg: {usual}{longest} ({of}).")


def cost_blocks(analysis: Analysis, price: float | None = None) -> Iterator[Block]:
    """The blocks of `cost_section`, without the gaps between legs."""
    costs = analysis.costs
    money = "" if price is None else f", {units.money(price * costs.wall_seconds / 3600)} at {price:g} an hour"
    machines = units.count(costs.num_machines, "machine")
    energy = f"; GPUs in the measured steps: {units.energy(costs.energy_joules)}" if costs.energy_joules else ""
    yield Paragraph(f"{units.duration(costs.wall_seconds)} of {machines}{money}{energy}.", strong=True)
    rows = [
        row(name, Cell(units.duration(seconds), repr(seconds)), units.percent(seconds / costs.wall_seconds))
        for name, part in _PARTS.items()
        if (seconds := getattr(costs, part))
    ]
    if rows:
        names = columns("what for", "time", "share", numbers=("time", "share"))
        note = "From the ledger's timestamps; gaps of over 15 minutes and the start before the first leg are left out."
        yield Table("machine-time", "Machine time", names, tuple(rows), note=note)
    if costs.verdicts:
        yield _verdicts(analysis, costs, price)


def _verdicts(analysis: Analysis, costs: Costs, price: float | None) -> Table:
    verdicts = {(c.where.setting_id, c.arm): c.verdict for c in analysis.comparisons}
    energy, money = costs.energy_joules is not None, price is not None
    names = ["setting", "arm", "verdict", "machine time"] + ["energy"] * energy + ["money"] * money
    rows = []
    for one in sorted(costs.verdicts, key=lambda one: -one.machine_seconds)[:_MOST_VERDICTS]:
        verdict = verdicts.get((one.setting_id, one.arm), "")
        cells = [
            Cell(one.setting),
            Cell(one.arm),
            Cell(verdict, verdict=verdict),
            Cell(units.duration(one.machine_seconds), repr(one.machine_seconds)),
        ]
        if energy:
            cells.append(Cell(units.energy(one.energy_joules)))
        if price is not None:
            cells.append(Cell(units.money(price * one.machine_seconds / 3600)))
        rows.append(row(*cells))
    left = len(costs.verdicts) - len(rows)
    return Table(
        "verdict-costs",
        "What each verdict took: its arm's legs, and its share of the baseline's",
        columns(*names, numbers=("machine time", "energy", "money")),
        tuple(rows),
        left_out=f"{left:,} more took less" if left > 0 else "",
    )
