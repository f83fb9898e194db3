"""Profiled legs in sentences: where each arm's step time goes, what the profiler cost and could not measure."""

from __future__ import annotations

from raybench.analysis import Analysis
from raybench.text import in_percent


def sentences(analysis: Analysis) -> list[str]:
    """One for each arm and setting, beginning with what explains a difference; then the warnings, each once."""
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
