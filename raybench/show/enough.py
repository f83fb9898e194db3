"""The batch at which an arm would be within the margin, in sentences."""

from __future__ import annotations

from raybench.analysis import Analysis
from raybench.analysis.views.enough import EnoughBatch
from raybench.show import units


def sentences(analysis: Analysis) -> list[str]:
    """One for each arm and setting with several batches, where it hurts or is undecided at one of them."""
    several = len(analysis.hardware) > 1
    return [_sentence(one, analysis) + (f" ({one.hardware})" if several else "") for one in analysis.enough_batches]


def _sentence(one: EnoughBatch, analysis: Analysis) -> str:
    fixed = units.cost(one.fixed.value, "step")
    ends = [units.cost(max(0.0, end), "step") for end in (one.fixed.low, one.fixed.high) if end is not None]
    batches = ", ".join(map(str, one.batches))
    return (
        f"{one.arm} in {one.setting}: a fixed {fixed} ({' to '.join(ends)}) on top of each step. By straight lines "
        f"through batches of {batches} it is within the margin of {units.percent(analysis.margin)} {_from(one)}"
    )


def _from(one: EnoughBatch) -> str:
    found, low = one.batch, "" if one.batch.low is None else f"{one.batch.low:,.0f}"
    if found.value is None:
        return f"at no batch; one of {low} is the least that is not excluded" if low else "at no batch"
    ends = f"{low} or more" if found.high is None else f"{low} to {found.high:,.0f}"
    beyond = ", beyond those measured" if found.value > max(one.batches) else ""
    return f"from a batch of about {found.value:,.0f} on ({ends}){beyond}"
