"""What a sweep could detect: from a calibration of this machine, or assumed.

No ray, torch or mlflow here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from raybench.declare.plan import Plan, Trial
from raybench.declare.protocol import INSTRUMENTS, Protocol
from raybench.declare.space import Space
from raybench.errors import UserError
from raybench.machine.fingerprint import Fingerprint, this_machine
from raybench.statistics.inference import t_quantile
from raybench.statistics.power import detectable_effect, prior_degrees
from raybench.stores.storage import AnyPath, files_below
from raybench.text import in_percent

# Standard deviation of one trial's log ratio between neighbouring legs of one process, measured on an idle 2-core
# machine; other machines differ, and only a measurement tells.
ASSUMED_SD: Final = 0.018
UNKNOWN_SCATTER: Final = (
    "this machine's scatter is not measured, but all estimates depend on it; run raybench.calibrate first"
)
CALIBRATION: Final = "_calibration.json"  # in <results>/calibration/<name>


@dataclass(frozen=True)
class Noise:
    """One calibration's result for one setting; seconds are None where unknown."""

    path: AnyPath
    machine: Fingerprint
    setting_id: str
    protocol: dict[str, Any]
    deviation: float  # of a trial's log ratio
    degrees: int
    leg_seconds: float | None
    start_seconds: float | None


def find_noise(results: AnyPath, machine: Fingerprint) -> list[Noise]:
    """The results of the calibrations below a results folder that were made on machines like this one.

    Raises UserError naming a file that is no calibration.
    """
    found = [path for names, path in files_below(results / "calibration", CALIBRATION) if len(names) == 2]
    return [one for path in found for one in _read(path) if one.machine == machine]


def _read(path: AnyPath) -> Iterator[Noise]:
    try:
        for one in json.loads(path.read_text(encoding="utf-8"))["settings"]:
            if one["scatter"] is not None:
                yield Noise(
                    path, one["machine"], one["setting_id"], one["protocol"], float(one["scatter"]["deviation"]),
                    int(one["scatter"]["degrees"]), one["leg_seconds"], one["start_seconds"],
                )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a calibration ({type(error).__name__}: {error}); take it away or make it anew"
        ) from None


def pooled_deviation(noise: Sequence[Noise]) -> float:
    """The root mean square of their deviations, each weighted with its degrees of freedom."""
    return math.sqrt(sum(n.deviation**2 * n.degrees for n in noise) / sum(n.degrees for n in noise))


@dataclass(frozen=True)
class Detection:
    """What a plan could detect, by the rule that will judge it. Effects are ratios minus 1, unless log is named."""

    trials: int  # of each setting; with `repeats: {min, max}` the maximum
    comparisons: int  # number covered by one correction
    deviation: float  # of a trial's log ratio
    is_measured: bool  # on this machine; otherwise assumed
    source: str  # where the deviation comes from, in words
    margin: float
    alpha: float
    multiplicity: str
    half_width: float | None  # of the plain interval of level 1 - alpha; None with one trial
    least_effect: float | None  # judged `helps` with 80 % power at the corrected level

    def sentence(self) -> str:
        """The result in words."""
        if self.half_width is None or self.least_effect is None:
            return (
                "one trial a setting gives no interval: every verdict will be undecided; repeats=5 or more can decide"
            )
        assumed = "" if self.is_measured else f"{UNKNOWN_SCATTER}. "
        source = f" ({self.source})" if self.is_measured else ", as is assumed"
        alone = "the only comparison"
        among = f"one of {self.comparisons} comparisons that are judged together ({self.multiplicity})"
        least = self.least_effect
        faster = f"{in_percent(least, 1)} faster than" if least < 1 else f"{1 + least:.1f} times as fast as"
        return (
            f"{assumed}With {self.trials} trials a setting, an arm that is {faster} the baseline would be "
            f"judged to help with a chance of 80 %, as {alone if self.comparisons == 1 else among} with a margin of "
            f"{in_percent(self.margin)}. A {in_percent(1 - self.alpha)} interval would reach about "
            f"{in_percent(self.half_width, 1)} to each side, "
            f"where a trial's log ratio scatters by {in_percent(self.deviation, 1)}{source}"
        )


def detection(plan: Plan, space: Space, results: AnyPath) -> Detection:
    """The smallest effect that the plan's trials can show, by the exact power of the rule that will judge.

    The level is that of one comparison among all, before any claim: other claims make it less strict. Raises UserError
    for an unreadable calibration.
    """
    noise, known = _found(plan, results)
    settings = len({trial.setting_id for trial in plan.trials})
    question, comparisons = space.question, settings * (len(space.arms) - 1)
    trials, level = space.most_repeats, question.alpha / comparisons
    if space.looks:
        level *= space.looks[-1].share  # only a claim at the last look: earlier looks only add to the chance
    deviation = pooled_deviation(known or noise) if noise else ASSUMED_SD
    lent = prior_degrees(comparisons, question.variance)
    log_margin = math.log1p(question.margin)
    least = detectable_effect(trials, deviation, margin=log_margin, level=level, lent=lent) - 1
    return Detection(
        trials=trials,
        comparisons=comparisons,
        deviation=deviation,
        is_measured=bool(noise),
        source=_source(known, noise, settings) if noise else "assumed",
        margin=question.margin,
        alpha=question.alpha,
        multiplicity=question.multiplicity,
        half_width=half_width(trials, question.alpha, deviation) if trials > 1 else None,
        least_effect=least if trials > 1 else None,
    )


def half_width(trials: int, alpha: float, sd: float = ASSUMED_SD) -> float:
    """Half the width of the paired t interval of the speedup (a ratio minus 1) with `trials` trials."""
    return math.expm1(float(t_quantile(trials, alpha / 2)) * sd / math.sqrt(trials))


def _found(plan: Plan, results: AnyPath) -> tuple[list[Noise], list[Noise]]:
    """What calibrations on this machine found, and the part of it about the plan's settings and protocol."""
    noise = find_noise(results, this_machine(with_gpu=plan.trials[0].setting.device != "cpu"))
    settings = {trial.setting_id: trial for trial in plan.trials}
    own = {n.setting_id: n for n in noise if n.setting_id in settings and _measured_as(n, settings[n.setting_id])}
    return noise, [own[setting] for setting in settings if setting in own]


def calibrated_seconds(plan: Plan, results: AnyPath) -> float | None:
    """Machine time of a plan if every arm takes as long as the baseline took when this machine was calibrated.

    None where a setting is not calibrated, or has too few trials to tell. Raises UserError.
    """
    own = {noise.setting_id: noise for noise in _found(plan, results)[1]}
    seconds = 0.0
    for trial in plan.trials:
        noise = own.get(trial.setting_id)
        if noise is None or noise.leg_seconds is None or noise.start_seconds is None:
            return None
        seconds += trial.num_nodes_taken * (noise.start_seconds + len(trial.legs) * noise.leg_seconds)
    return seconds


def _measured_as(noise: Noise, trial: Trial) -> bool:
    """Whether a calibration used the trial's protocol, whatever instruments were on."""
    try:
        protocol: Protocol = TypeAdapter(Protocol).validate_python(noise.protocol)
    except ValidationError:  # of another version of raybench
        return False
    off = dict.fromkeys(INSTRUMENTS, False)
    return protocol.model_copy(update=off) == trial.protocol.model_copy(update=off)


def _source(known: Sequence[Noise], noise: Sequence[Noise], settings: int) -> str:
    if not known:
        return f"calibrated on this machine with other settings or another protocol, {_places(noise)}"
    which = "" if len(known) == settings else f" with {len(known)} of the {settings} settings"
    return f"calibrated on this machine{which}, {_places(known)}"


def _places(noise: Sequence[Noise]) -> str:
    folders = list(dict.fromkeys(str(one.path.parent) for one in noise))
    return folders[-1] if len(folders) == 1 else f"{folders[-1]} and {len(folders) - 1} more"
