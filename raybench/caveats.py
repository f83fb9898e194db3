"""A caveat: what a reader must know beside a number. It has a kind, values for its text, and a weight.

The analysis produces caveats as records; their texts are only in `KINDS`, in the order of their weight.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from raybench.text import in_percent


class Weight(IntEnum):
    """A caveat's effect on a verdict, the heaviest first."""

    CHANGES = 0  # another verdict, or none, would be right
    DOUBTS = 1  # an interval or a mean rests on a doubtful assumption
    TELLS = 2  # background on the number


@dataclass(frozen=True)
class Caveat:
    """One caveat; `values` fill its kind's text."""

    kind: str
    values: tuple[tuple[str, Any], ...] = ()

    @property
    def weight(self) -> Weight:
        """How much it weighs."""
        return KINDS[self.kind][0]

    @property
    def text(self) -> str:
        """The caveat in words, without a full stop."""
        return _WRITER.format(KINDS[self.kind][1], **dict(self.values))

    def __str__(self) -> str:
        return self.text


def caveat(kind: str, **values: Any) -> Caveat:
    """A caveat of that kind. It is hashable: lists among the values become tuples, nested values their text."""
    assert kind in KINDS, kind
    return Caveat(kind, tuple((name, _hashable(value)) for name, value in values.items()))


def _hashable(value: Any) -> Any:
    if not isinstance(value, list | dict):
        return value
    plain = isinstance(value, list) and not any(isinstance(one, list | dict) for one in value)
    return tuple(value) if plain else shown(value)


class _Writer(string.Formatter):
    """`str.format` with our own conversions.

    !v a value of any type, short; !t a number of trials; !j a list joined by commas; !b by bars; !d a difference of
    accuracies in points; !p the interval of one, after a space; !f faster or slower; !h higher or lower; !s a share;
    !o so many rounds were; !x a relative change as a ratio.
    """

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        match conversion:
            case "v":
                return shown(value)
            case "t":
                return f"{value} trial" if value == 1 else f"{value} trials"
            case "j":
                return ", ".join(map(str, value))
            case "b":
                return " | ".join(map(str, value))
            case "d":
                return f"{100 * value:+.2f}"
            case "p":
                return "" if None in value else " [" + ", ".join(f"{100 * end:+.2f}" for end in value) + "]"
            case "f":
                return f"{in_percent(abs(value), 1)} {'slower' if value > 0 else 'faster'}"
            case "h":
                return f"{in_percent(abs(value), 1)} {'higher' if value > 0 else 'lower'}"
            case "s":
                return in_percent(value)
            case "o":
                return "1 round was" if value == 1 else f"{value} rounds were"
            case "x":
                return f"{1 + value:.3f}"
        return super().convert_field(value, conversion)  # type: ignore[arg-type]


_WRITER: Final = _Writer()


def shown(value: Any) -> str:
    """A value of any type in at most 60 characters; a tuple looks like the list that it was."""
    value = list(value) if isinstance(value, tuple) else value
    text = f"{value:.6g}" if isinstance(value, float) and abs(value - round(value, 6)) > 1e-9 else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def ranked(caveats: Sequence[Caveat]) -> list[Caveat]:
    """Sorted by weight, the heaviest first; otherwise in the original order."""
    return sorted(caveats, key=lambda one: one.weight)


KINDS: Final[dict[str, tuple[Weight, str]]] = {
    # ---- of a comparison: the arms were not the same experiment
    "unequal": (Weight.CHANGES, "{what}: {base!v} in {baseline}, {own!v} in {arm}"),
    "arm_built_otherwise": (
        Weight.CHANGES, "arm_config of {arm}: {key} is {before!v} in some legs, {after!v} in others",
    ),
    "facts_between_trials": (
        Weight.CHANGES, "{what} of {arm} differs between trials: {before!v}, {after!v}",
    ),
    "losses_part": (
        Weight.CHANGES,
        "losses part at step {step}: {base:.7g} in {baseline}, {own:.7g} in {arm}; the relative tolerance is "
        "{allowed:.1g}",
    ),
    # ---- of a comparison: judged another way, or with another cause
    "otherwise": (Weight.CHANGES, "with the {way} the verdict would be {verdict!r}"),
    "no_trial_left": (Weight.CHANGES, "with {way} no trial would be left"),
    "confounded": (
        Weight.CHANGES,
        "within a trial the arms ran on different {what} ({change}), which may be the difference seen",
    ),
    "worse_loss": (Weight.CHANGES, "quality: {arm} has a higher held-out loss, margin {percent:g} %"),
    "less_accurate": (
        Weight.CHANGES, "quality: {arm} is less accurate: {difference!d} points{interval!p}, margin {percent:g}",
    ),
    # ---- of a comparison: what its interval rests on
    "one_trial": (
        Weight.DOUBTS, "one trial: its noise is unknown, so there is no interval; run at least 3, better 5 or more",
    ),
    "equal_trials": (Weight.DOUBTS, "the {trials} trials agree to the last digit, which measured times hardly ever do"),
    "no_facts": (Weight.DOUBTS, "no facts are stated, so nothing shows that the arms ran the same experiment"),
    "unclear_loss": (
        Weight.DOUBTS, "quality: {arm} is not shown to have as low a held-out loss, margin {percent:g} %",
    ),
    "unclear_accuracy": (
        Weight.DOUBTS,
        "quality: {arm} is not shown to be as accurate: {difference!d} points{interval!p}, margin {percent:g}",
    ),
    "no_baseline": (
        Weight.DOUBTS, "the baseline {baseline} has no leg in this setting, so there is nothing to compare with",
    ),
    "one_process_group": (Weight.DOUBTS, "{trials} trials ran in one set of processes: they count as {counted}"),
    "copies": (
        Weight.DOUBTS,
        "{trials} trials have the step times of another one, as copies do: they count as {counted}",
    ),
    "batches_contradict": (
        Weight.DOUBTS,
        "batches do not add up in {arm}: a step has {samples:.0f} samples, the global batch is {batch:.0f}, "
        "micro x accumulation x workers is {micro:.0f} x {accumulation:.0f} x {workers:.0f}",
    ),
    "trials_differ": (Weight.DOUBTS, "trials differ in {what}: {values!b}"),
    "cut_rounds": (
        Weight.DOUBTS,
        "{cut} of {rounds} rounds pair legs of different processes, which scatter more (a trial was cut and resumed)",
    ),
    "mixed": (Weight.DOUBTS, "mixed {what}: {change}"),
    "unlike_nodes": (Weight.DOUBTS, "the nodes of a trial are not alike: {nodes}"),
    "brought_along": (
        Weight.DOUBTS, "the packages of {arm} changed {what} to {own}; {baseline} had {base}",
    ),
    "not_steady": (
        Weight.DOUBTS, "{flagged} of {legs} legs were not steady in the measured window; a longer warm-up may help",
    ),
    "contaminated": (Weight.DOUBTS, "{flagged} of {legs} legs are contaminated: {why!j}"),
    "shared_node": (
        Weight.DOUBTS,
        "up to {trials:.0f} trials shared a node (slots_per_node) and disturbed each other: the interval shows "
        "how much they scattered, but not whether an arm suffers more from it than the baseline",
    ),
    "whole_command": (
        Weight.DOUBTS,
        "{arm}: its script records no steps (raybench.steps), so the whole command was timed, including its start "
        "and all else that it does",
    ),
    "facts_not_known": (Weight.DOUBTS, "{arm}: not known, and so not compared: {facts!j}"),
    "processes_left": (Weight.DOUBTS, "{arm}: {processes} of its processes outlived the command and were killed"),
    "drift": (Weight.DOUBTS, "drift: within a leg of {arm} the second half is {drift!f} than the first"),
    "order_matters": (
        Weight.DOUBTS, "order matters: the ratio is {effect!h} where {arm} runs first (drift or carry-over)",
    ),
    # ---- of a comparison: how the number came about
    "few_trials": (
        Weight.TELLS, "few trials: the interval rests on {trials}, and on their being roughly normal",
    ),
    "own_processes": (
        Weight.TELLS,
        "{arm} and {baseline} did not share processes, which adds to their scatter (`calibrate isolation=both` "
        "measures how much)",
    ),
    "also_differ": (Weight.TELLS, "arms also differ in {words!j}, as the space declares"),
    "legs_failed": (Weight.TELLS, "{failed} of {legs} legs of {arm} failed"),
    "legs_failed_rest": (
        Weight.TELLS, "{failed} of {legs} legs of {arm} failed; the speedup rests on the {trials!t} in which both ran",
    ),
    "absent_trials": (Weight.TELLS, "{arm} has legs in only {trials} of the setting's {all!t}"),
    "lonely_rounds": (Weight.TELLS, "{rounds!o} measured on one side only, and not used"),
    "per_sample": (
        Weight.TELLS, "per sample, not per step: {baseline} takes {base:.0f} a step, {arm} {own:.0f}",
    ),
    "several_sweeps": (Weight.TELLS, "trials of {number} sweeps are taken together: {sweeps!j}"),
    "skipped_steps": (
        Weight.TELLS, "{arm} passed over {steps:.3g} optimizer steps a leg, whose gradients had overflowed",
    ),
    "input_bound": (
        Weight.TELLS,
        "input-bound: {share!s} of a step of {arm} is waiting for data: this measures your loader, which "
        "no engine speeds up",
    ),
    "steps_of_scripts": (
        Weight.TELLS, "steps: {base} in {baseline}, {own} in {arm}; a script chooses its own number",
    ),
    # ---- of the whole analysis
    "baseline_alone": (
        Weight.CHANGES, "the ledger holds legs of the baseline alone, so there is nothing to compare",
    ),
    "nothing_compared": (
        Weight.CHANGES,
        "nothing could be compared: no trial holds a measured leg of both an arm and the baseline",
    ),
    "pooled_arms": (
        Weight.DOUBTS, "{arm} is not the same arm in all settings, and its summary pools them: {what} differs",
    ),
    "carry_over": (
        Weight.DOUBTS,
        "carry-over: a step of another engine takes {change!x} times as long [{low!x}, {high!x}] right after a leg of "
        "{engine}; isolation: fresh keeps legs apart",
    ),
    "dependent_trials": (
        Weight.DOUBTS,
        "trials that follow one another in time are alike (correlation {correlation:.2f}, p {p_value:.2g}): intervals "
        "are too narrow; spread the trials over more time",
    ),
    "question_of_some": (
        Weight.DOUBTS, "{what} is named by {named} of the {ledgers} ledgers only ({names!j})",
    ),
    "hardware_apart": (
        Weight.TELLS, "legs of different hardware are kept apart; --pool-hardware takes them together",
    ),
    "missing_instruments": (Weight.TELLS, "instruments that were not there: {instruments!j}"),
}  # fmt: skip
