"""The question put to a ledger: margin, level, baseline and metric, as given or as found beside the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import yaml

from raybench.analysis.legs import Legs
from raybench.caveats import Caveat, caveat
from raybench.declare.repeats import Look
from raybench.errors import UserError
from raybench.ledger.reading import ledger_files
from raybench.statistics.claims import Rule
from raybench.statistics.looks import read_looks
from raybench.statistics.moderation import VARIANCES
from raybench.statistics.multiplicity import MULTIPLICITIES, Floats
from raybench.stores.storage import AnyPath
from raybench.text import suggest

MARGIN: Final = 0.03
ALPHA: Final = 0.05
QUALITY_MARGIN: Final = 0.01  # an accuracy: one point


@dataclass(frozen=True)
class Declared:
    """What the spaces beside ledgers declare: by folder, the resolved space; empty where there is none.

    What a user gives goes before what is declared, and that before the default. Methods raise UserError for a value out
    of range, and where ledgers were made for different questions.
    """

    spaces: Mapping[AnyPath, Mapping[str, Any]]

    def margin(self, given: float | None) -> float:
        """The margin, a ratio: 0.03 is 3 %."""
        return self._number("margin", given, MARGIN, 1.0)

    def alpha(self, given: float | None) -> float:
        """The error rate."""
        return self._number("alpha", given, ALPHA, 0.5)

    def quality_margin(self, given: float | None) -> float:
        """The quality margin, an accuracy."""
        return self._number("quality_margin", given, QUALITY_MARGIN, 1.0)

    def rule(self, margin: float, alpha: float, multiplicity: str | None, variance: str | None) -> Rule:
        """The rule that judges comparisons."""
        chosen = {}
        for name, given, known in (("multiplicity", multiplicity, MULTIPLICITIES), ("variance", variance, VARIANCES)):
            chosen[name] = given if given is not None else self._agreed(name, known[0])
            if chosen[name] not in known:
                raise UserError(f"{name}={chosen[name]}: {suggest(chosen[name], known)}")
        return Rule(float(np.log1p(margin)), alpha, **chosen)  # type: ignore[arg-type]

    def looks(self) -> tuple[Look, ...] | None:
        """The looks taken at the ledgers; None where their sweeps have a fixed number of trials.

        Raises UserError for an unreadable record, too.
        """
        taken = {folder: read_looks(folder) for folder in self.spaces}
        found = {
            tuple(Look(one.trials, one.share) for one in looks)
            if looks or isinstance(self.spaces[folder].get("repeats"), dict)
            else None
            for folder, looks in taken.items()
        }
        if len(found) > 1:
            raise UserError("the ledgers were looked at after different numbers of trials; analyse them one at a time")
        return found.pop() if found else None

    def baseline(self, legs: Legs, wanted: str | None) -> str:
        """The baseline's arm name: `wanted`, else the one that the ledger marks, else the declared one.

        Raises UserError where there is none, or more than one.
        """
        arm = legs.text["arm"]
        present = [arm.names[code] for code in np.unique(arm.codes)]
        if wanted is not None:
            if wanted not in present:
                raise UserError(f"baseline={wanted}: no leg of that arm; the arms are: {', '.join(present)}")
            return wanted
        marked = [arm.names[code] for code in np.unique(arm.codes[legs.number["is_baseline"] == 1])]
        if len(marked) > 1:
            raise UserError(f"several arms are marked as the baseline, {' and '.join(marked)}; give baseline=ARM")
        declared = {str(space["baseline"]) for space in self.spaces.values() if space.get("baseline")}
        if not marked and len(declared) != 1:
            raise UserError(f"no leg is marked as the baseline's; give baseline=ARM, one of: {', '.join(present)}")
        return marked[0] if marked else declared.pop()

    def unshared(self, given: Collection[str]) -> list[Caveat]:
        """Settings of the question that only some of the ledgers have, except those `given` for all."""
        caveats = []
        for name in sorted({"margin", "alpha", "quality_margin", "multiplicity", "variance"} - set(given)):
            named = [folder.name for folder, question in self._questions() if name in question]
            if named and len(named) < len(self.spaces):
                caveats.append(
                    caveat("question_of_some", what=name, named=len(named), ledgers=len(self.spaces), names=named)
                )
        return caveats

    def _questions(self) -> list[tuple[AnyPath, Mapping[str, Any]]]:
        questions = ((folder, space.get("question")) for folder, space in self.spaces.items())
        return [(folder, question) for folder, question in questions if isinstance(question, dict)]

    def _agreed(self, name: str, default: str) -> str:
        values = {str(question[name]) for _, question in self._questions() if name in question}
        if len(values) > 1:
            both = " and ".join(sorted(values))
            raise UserError(f"the ledgers were made for different questions, {name} {both}; give {name}=")
        return values.pop() if values else default

    def _number(self, name: str, given: float | None, default: float, most: float) -> float:
        text = self._agreed(name, str(default)) if given is None else given
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"{name}: {text!r} in the ledger's _space.yaml is no number; give {name}=") from None
        if not 0 < value < most:
            raise UserError(f"{name}={value:g} must lie between 0 and {most:g}")
        return value


def declared_beside(paths: Sequence[AnyPath]) -> Declared:
    """What the `_space.yaml` beside each of the ledgers declares. Raises UserError for one that cannot be read."""
    folders = dict.fromkeys(file.parent for path in paths for file in ledger_files(path))
    return Declared({folder: _space(folder) for folder in folders})


def _space(folder: AnyPath) -> dict[str, Any]:
    path = folder / "_space.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as YAML ({reason}); mend it or take it away") from None
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Metric:
    """A cost: `cost(legs)` has shape (legs,), nan where a leg has none, for example because it failed."""

    name: str
    per: str  # what the cost is per, in words: "step" as in seconds a step
    meaning: str
    cost: Callable[[Legs], Floats]
    absent: str = "no_value"  # failure kind for a measured leg without a value


def _column(name: str) -> Callable[[Legs], Floats]:
    def cost(legs: Legs) -> Floats:
        values = legs.number[name]
        if not np.any(values[legs.ok] > 0):
            raise UserError(f"metric={name}: no measured leg of the ledger has a {name} above 0; take another metric")
        return np.where(legs.ok & (values > 0), values, np.nan)

    return cost


def _time_to_accuracy(legs: Legs) -> Floats:
    seconds = legs.number["time_to_accuracy"]
    if np.isnan(seconds[legs.ok]).all():
        raise UserError("metric=time_to_accuracy: no leg's protocol has a target_accuracy, or no accuracy was measured")
    return np.where(np.isfinite(seconds) & (seconds > 0), seconds, np.nan)


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("step_seconds", "step", "mean measured step", lambda legs: legs.steps.mean_seconds),
        Metric("median_step_seconds", "step", "median measured step", lambda legs: legs.steps.median_seconds),
        Metric("train_seconds", "leg", "all steps of a leg", _column("train_seconds")),
        Metric(
            "time_to_accuracy",
            "leg",
            "training until the first epoch that reaches the protocol's target_accuracy",
            _time_to_accuracy,
            absent="target_not_reached",
        ),
        Metric("setup_seconds", "leg", "building model and engine, compilation included", _column("setup_seconds")),
        Metric("peak_device_bytes", "byte", "peak memory of the device, in bytes", _column("peak_device_bytes")),
        Metric("peak_host_bytes", "byte", "peak memory of the host, in bytes", _column("peak_host_bytes")),
    )
}


def log_cost(legs: Legs, cost: Floats, metric: Metric) -> Floats:
    """Log of the cost, per sample for costs of steps, so that arms with different batches can be compared."""
    samples = legs.number["samples_per_step"]
    known = np.where(samples > 0, samples, 1.0) if metric.per == "step" else np.ones(len(legs))
    return np.asarray(np.log(cost / known))


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises UserError that lists the known ones."""
    if name not in METRICS:
        raise UserError(f"metric={name}: {suggest(name, METRICS)}")
    return METRICS[name]
