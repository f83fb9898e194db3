"""The plan as a person reads it."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from scipy import stats

from raybench.arms import DeepSpeedArm
from raybench.plan import Plan
from raybench.space import Space

# Standard deviation of one trial's log ratio between neighbouring legs of one process, as found on an idle 2-core
# machine; another machine has another, and only a measurement tells.
ASSUMED_SD = 0.018


def print_plan(plan: Plan, space: Space, console: Console | None = None) -> None:
    """Print settings, arms, the order of legs, how much there is to run and what it could detect."""
    console = console or Console()
    trials, legs = plan.trials, plan.legs()
    settings = {trial.setting_id: trial for trial in trials}
    console.print(
        f"space [bold]{plan.space}[/], sweep [bold]{plan.sweep}[/]: {len(settings)} settings x {len(space.arms)} arms, "
        f"{space.repeats} trials each: {len(trials)} trials, {len(legs)} legs. Nothing is run."
    )
    table = Table(
        "setting", "family", "image", "batch a rank", "workers", "optimizer", title="settings", title_justify="left"
    )
    for trial in settings.values():
        s = trial.setting
        micro = f"{s.micro_batch}" + (f" x {s.accumulation}" if s.accumulation > 1 else "")
        table.add_row(
            trial.label,
            trial.family,
            f"{s.image_size}x{s.image_size}",
            micro,
            str(s.workers),
            f"{s.optimizer.name} lr {s.optimizer.lr:g}",
        )
    console.print(table)
    arms = Table("arm", "engine", "configuration", title="arms", title_justify="left")
    for name, arm in space.arms.items():
        config = (
            str(arm.config) if isinstance(arm, DeepSpeedArm) else arm.model_dump_json(exclude={"engine", "setting"})
        )
        own = f" setting: {arm.setting}" if arm.setting else ""
        arms.add_row(name + (" (baseline)" if name == space.baseline else ""), arm.engine, config + own)
    console.print(arms)
    protocol = space.protocol
    steps = protocol.warmup_steps + protocol.steps
    console.print(
        f"each leg: {protocol.warmup_steps} warm-up steps, {protocol.steps} measured; {protocol.rounds} rounds; "
        f"{steps * len(legs):,} steps in all. How long a step takes is not known before it is measured; starting the "
        f"processes of a trial takes about 20 s on a laptop, so {len(trials) * 20 / 60:.0f} min of that."
    )
    console.print(f"order of the first trial: {' '.join(leg.arm_name for leg in trials[0].legs)}")
    console.print(what_it_detects(space))


def half_width(trials: int, alpha: float, sd: float = ASSUMED_SD) -> float:
    """Half the width of the paired t interval of the speedup (a ratio minus 1) with `trials` trials."""
    quantile = float(stats.t.ppf(1 - alpha / 2, trials - 1))
    return math.expm1(quantile * sd / math.sqrt(trials))


def what_it_detects(space: Space) -> str:
    """One sentence on the smallest effect that this number of trials can show."""
    if space.repeats < 2:
        return "one trial a setting gives no interval: every verdict will be undecided; repeats=5 or more can decide"
    width = half_width(space.repeats, space.question.alpha)
    level = 1 - space.question.alpha
    return (
        f"with {space.repeats} trials a {level:.0%} interval reaches about {width:.1%} to each side where a trial's "
        f"log ratio scatters by {ASSUMED_SD:.1%} (an assumption: this machine's scatter is not measured); "
        f"the margin is {space.question.margin:.0%}"
    )
