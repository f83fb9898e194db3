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
