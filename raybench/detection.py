"""What a sweep would be able to detect: from a calibration of this machine, or assumed.

No ray, torch or mlflow here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from raybench.analysis.inference import t_quantile
from raybench.analysis.planning import detectable_effect
from raybench.declare.plan import Plan, Trial
from raybench.declare.protocol import INSTRUMENTS, Protocol
from raybench.declare.space import Space
from raybench.errors import UserError
from raybench.machine.fingerprint import Fingerprint, this_machine
from raybench.stores.storage import AnyPath, files_below

# Standard deviation of one trial's log ratio between neighbouring legs of one process, as found on an idle 2-core
# machine; another machine has another, and only a measurement tells.
ASSUMED_SD: Final = 0.018
CALIBRATION: Final = "_calibration.json"  # in <results>/calibration/<name>


@dataclass(frozen=True)
class Noise:
    """What one calibration found of one setting; seconds are None where it could not tell."""

    path: AnyPath
    machine: Fingerprint
    setting_id: str
    protocol: dict[str, Any]
    deviation: float  # of a trial's log ratio
    degrees: int
    leg_seconds: float | None
    start_seconds: float | None


def find_noise(results: AnyPath, machine: Fingerprint) -> list[Noise]:
    """What the calibrations below a results folder found on machines like this one.

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


def half_width(trials: int, alpha: float, sd: float = ASSUMED_SD) -> float:
    """Half the width of the paired t interval of the speedup (a ratio minus 1) with `trials` trials."""
    return math.expm1(float(t_quantile(trials, alpha / 2)) * sd / math.sqrt(trials))


def what_it_detects(plan: Plan, space: Space, results: AnyPath) -> str:
    """A sentence on the smallest effect that this number of trials can show. Raises UserError."""
    noise, known = _found(plan, results)
    if space.repeats < 2:
        return "one trial a setting gives no interval: every verdict will be undecided; repeats=5 or more can decide"
    if not noise:
        return _detects(space, ASSUMED_SD, "an assumption: this machine's scatter is not measured")
    num_settings = len({trial.setting_id for trial in plan.trials})
    return _detects(space, pooled_deviation(known or noise), _source(known, noise, num_settings))


def _found(plan: Plan, results: AnyPath) -> tuple[list[Noise], list[Noise]]:
    """What calibrations found on this machine, and of that what is of the plan's settings under its protocol."""
    noise = find_noise(results, this_machine(with_gpu=plan.trials[0].setting.device != "cpu"))
    settings = {trial.setting_id: trial for trial in plan.trials}
    own = {n.setting_id: n for n in noise if n.setting_id in settings and _measured_as(n, settings[n.setting_id])}
    return noise, [own[setting] for setting in settings if setting in own]


def calibrated_seconds(plan: Plan, results: AnyPath) -> float | None:
    """Machine time of a plan where every arm takes as long as the baseline took when this machine was calibrated.

    None where a setting is not calibrated, or with too few trials to tell. Raises UserError.
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
    """Whether a calibration measured under the trial's protocol, whatever instruments were on."""
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


def _detects(space: Space, deviation: float, source: str) -> str:
    question = space.question
    width = half_width(space.repeats, question.alpha, deviation)
    log_margin = math.log1p(question.margin)
    least = detectable_effect(space.repeats, deviation, margin=log_margin, alpha=question.alpha) - 1
    return (
        f"with {space.repeats} trials a {1 - question.alpha:.0%} interval reaches about {width:.1%} to each side where "
        f"a trial's log ratio scatters by {deviation:.1%} ({source}); the margin is {question.margin:.0%}, and an arm "
        f"that is faster by {least:.1%} would be judged `helps` with a chance of 80 %"
    )
