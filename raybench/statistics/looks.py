"""Stop when settled: a sweep looks at its verdicts a few times, and unsettled settings get more trials.

A look runs the whole procedure of `raybench.statistics.claims` over all comparisons, on the trials up to its number, at
its share of alpha. A claim once made stands and counts as made in the family of later looks. Each look makes a wrong
claim with at most its share of alpha, whatever decided which settings continued, and the shares add up to alpha (union
bound). So `repeats: {min, max}` has the error rate of a fixed number of trials. Later looks have larger shares, because
they can decide more.

Pure functions over arrays. The looks are stored beside the ledger as `_looks.json` (`LookRecord`), so that the verdicts
can be rebuilt from the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from raybench.declare.repeats import Look
from raybench.errors import UserError
from raybench.statistics.claims import HELPS, HURTS, NO_EFFECT, UNDECIDED, Claims, Rule, judge
from raybench.statistics.moderation import Integers, Mask
from raybench.statistics.multiplicity import Floats
from raybench.stores.storage import AnyPath

LOOKS_FILE: Final = "_looks.json"
SCHEMA_VERSION: Final = 1
ALL_TRIALS: Final = 2**62


@dataclass(frozen=True)
class Trials:
    """The paired trials of a sweep: each one's log ratio, comparison (0 to k - 1) and repeat (from 0); shape (t,)."""

    differences: Floats
    comparison: Integers
    repeat: Integers

    def summary(self, number: int, trials: int) -> tuple[Floats, Floats, Floats]:
        """Count, mean and sample standard deviation of k comparisons over the repeats below `trials`."""
        chosen = self.repeat < trials
        owner, values = self.comparison[chosen], self.differences[chosen]
        count = np.bincount(owner, minlength=number)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(owner, values, minlength=number) / count
        squares = np.bincount(owner, (values - mean[owner]) ** 2, minlength=number)
        return count.astype(float), mean, np.where(count >= 2, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def judge_looks(
    summaries: Sequence[tuple[Floats, Floats, Floats]],
    looks: Sequence[Look],
    rule: Rule,
    *,
    arm: Integers | None = None,
    hardware: Integers | None = None,
    allowed: Mask | None = None,
) -> Claims:
    """The claims after the looks taken; `summaries` holds (count, mean, deviation), each (..., k), at each look.

    A claim keeps the interval and level of its look; the rest have those of the last look. Adjusted p values are on
    the scale of alpha: the smallest over the looks of p_adjusted / (the look's share).
    """
    if not looks:
        raise ValueError("no look was taken")
    result: Claims | None = None
    for look, summary in zip(looks, summaries, strict=True):
        standing = None if result is None else result.verdict != UNDECIDED
        spent = replace(rule, alpha=rule.alpha * look.share)
        found = judge(*summary, spent, arm=arm, hardware=hardware, allowed=allowed, standing=standing)
        found = replace(found, p_adjusted=np.minimum(1.0, found.p_adjusted / look.share))
        result = found if result is None else _later(result, found)
    assert result is not None
    return result


def _later(before: Claims, now: Claims) -> Claims:
    """Combine two looks: earlier claims stand."""
    stands = before.verdict != UNDECIDED
    fields = {name: np.where(stands, getattr(before, name), getattr(now, name)) for name in vars(before)}
    fields["p_adjusted"] = np.where(stands, before.p_adjusted, np.fmin(before.p_adjusted, now.p_adjusted))
    return Claims(**fields)


@dataclass(frozen=True)
class Procedure:
    """How an analysis judges its comparisons: the rule, the looks, and the groups for the variances."""

    rule: Rule
    looks: tuple[Look, ...] | None  # those taken; None: a single one, at all trials
    arm: Integers  # codes, (k,)
    hardware: Integers
    allowed: Mask  # comparisons that may have a verdict

    def judge(self, trials: Trials) -> Claims:
        """The claims about the k comparisons from their trials; none if looks are due and none was taken."""
        number = len(self.allowed)
        allowed = self.allowed if self.looks != () else np.zeros_like(self.allowed)
        looks = self.looks or (Look(ALL_TRIALS, 1.0),)
        return judge_looks(
            [trials.summary(number, look.trials) for look in looks],
            looks,
            self.rule,
            arm=self.arm,
            hardware=self.hardware,
            allowed=allowed,
        )


@dataclass(frozen=True)
class LookRecord:
    """A look that was taken, as stored."""

    trials: int
    share: float  # of alpha
    claims: tuple[tuple[str, str, str], ...]  # all (setting_id, arm, verdict) claimed up to this look
    settled: tuple[str, ...]  # settings that get no more trials


def next_trials(settings: Iterable[str], looks: Sequence[Look], taken: Sequence[LookRecord]) -> dict[str, int]:
    """How many trials in total each unsettled setting should have by the next look; empty when done.

    `settings` are all settings of the plan, `looks` the schedule, `taken` the records of looks so far, in order. When
    every setting named here has that many finished trials (measured or failed), take the next look.
    """
    if len(taken) >= len(looks):
        return {}
    number = looks[len(taken)].trials
    settled = taken[-1].settled if taken else ()
    return {setting: number for setting in settings if setting not in settled}


def trials_due(settings: Iterable[str], looks: Sequence[Look], taken: Sequence[LookRecord]) -> dict[str, int]:
    """How many trials in total each setting should have by now: a settled one its number when it was settled, every
    other the number of the next look, or of the last one."""
    settled: dict[str, int] = {}
    for record in taken:
        for setting in record.settled:
            settled.setdefault(setting, record.trials)
    number = looks[min(len(taken), len(looks) - 1)].trials
    return {setting: settled.get(setting, number) for setting in settings}


def record_look(look: Look, verdicts: Sequence[tuple[str, str, str]]) -> LookRecord:
    """The record of a look, from (setting_id, arm, verdict) of every comparison after it.

    A setting is settled once none of its comparisons is undecided: more trials would not change a failure of one side,
    or arms that were not the same experiment.
    """
    claims = tuple(sorted(one for one in verdicts if one[2] in (HELPS, HURTS, NO_EFFECT)))
    undecided = {setting for setting, _, verdict in verdicts if verdict == UNDECIDED}
    settled = sorted({setting for setting, _, _ in verdicts} - undecided)
    return LookRecord(look.trials, look.share, claims, tuple(settled))


def to_json(records: Sequence[LookRecord]) -> str:
    """The text of `_looks.json`."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "looks": [asdict(record) for record in records]}, indent=1)


def from_json(text: str) -> tuple[LookRecord, ...]:
    """The records of a `_looks.json`. Raises ValueError for anything else."""
    content: Any = json.loads(text)
    if not isinstance(content, Mapping) or content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"not a record of looks of schema version {SCHEMA_VERSION}")
    try:
        return tuple(
            LookRecord(
                int(one["trials"]),
                float(one["share"]),
                tuple((str(setting), str(arm), str(verdict)) for setting, arm, verdict in one["claims"]),
                tuple(str(setting) for setting in one["settled"]),
            )
            for one in content["looks"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record of looks ({type(error).__name__}: {error})") from None


def read_looks(folder: AnyPath) -> tuple[LookRecord, ...]:
    """The record of looks beside a ledger; empty without one. Raises UserError where it cannot be read."""
    path = folder / LOOKS_FILE
    try:
        return from_json(path.read_text(encoding="utf-8")) if path.is_file() else ()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a record of looks ({error}); verdicts cannot be made without it") from None


def differing_looks(records: Sequence[LookRecord], rebuilt: Sequence[LookRecord]) -> list[str]:
    """How stored looks differ from those rebuilt from the ledger, one sentence each; empty where they agree."""
    sentences = []
    for number, (stored, found) in enumerate(zip(records, rebuilt, strict=True), 1):
        if either := sorted(set(stored.settled) ^ set(found.settled)):
            sentences.append(f"look {number} (after {stored.trials} trials): {', '.join(either)} settled in one only")
        for setting, arm, verdict in sorted(set(stored.claims) ^ set(found.claims)):
            where = "stored" if (setting, arm, verdict) in stored.claims else "rebuilt"
            sentences.append(
                f"look {number} (after {stored.trials} trials): {arm} in {setting} is {verdict!r} only as {where}"
            )
    return sentences
