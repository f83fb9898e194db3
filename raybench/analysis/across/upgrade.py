"""Versions of a library compared: each against the baseline engine, and each against the first version.

Against the baseline, an upgrade's effects on both sides cancel; version against version they do not. Both are paired
within the trial. Whether the training is the same is a separate verdict, from the losses and gradient norms of the
first steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raybench.analysis.analysis import Analysis, analyse
from raybench.analysis.comparability import training_parts_at
from raybench.analysis.results import Comparison
from raybench.stores.storage import AnyPath

SAME: Final = "same"
NOT_KNOWN: Final = "not known"


@dataclass(frozen=True)
class VersionInSetting:
    """One version in one setting."""

    setting: str  # with the hardware, where there are several kinds
    arm: str
    against_baseline: Comparison
    against_first: Comparison | None  # None for the first version itself
    training: str  # `same`, `differs from step 4`, or `not known`


def compare_versions(folder: AnyPath, arms: Sequence[str]) -> tuple[Analysis, list[VersionInSetting]]:
    """The analysis of a sweep whose `arms` are versions, in their order, and a record per version and setting."""
    normal = analyse([folder])
    raw = analyse([folder], baseline=arms[0])
    beside = {_place(c): c for c in raw.comparisons}
    training = _training(normal)
    several = len({c.where.hardware for c in normal.comparisons}) > 1
    found = [
        VersionInSetting(
            f"{c.where.setting}, {c.where.hardware}" if several else c.where.setting,
            c.arm, c, beside.get(_place(c)), training.get(_place(c), NOT_KNOWN),
        )
        for c in normal.comparisons
        if c.arm in arms
    ]  # fmt: skip
    return normal, sorted(found, key=lambda v: (v.setting, arms.index(v.arm)))


def _place(c: Comparison) -> tuple[str, str, str]:
    return c.where.setting_id, c.where.hardware, c.arm


def _training(analysis: Analysis) -> Mapping[tuple[str, str, str], str]:
    """Whether each arm trained as the baseline did, by setting, hardware and arm, where recorded."""
    pairs = analysis.pairs
    text, hardware = pairs.legs.text, pairs.legs.hardware
    return {
        (text["setting_id"][leg], hardware[leg], text["arm"][leg]): f"differs from step {step}" if step else SAME
        for k, step in training_parts_at(pairs).items()
        for leg in [pairs.example[k]]
    }


def is_worse(version: VersionInSetting, kinds: Sequence[str]) -> bool:
    """Whether a version has a problem in `kinds`: `hurts` (against the first version), `differs` or `failed`."""
    c = version.against_first or version.against_baseline
    hurts = version.against_first is not None and c.judgement.verdict == "hurts"
    return (
        ("hurts" in kinds and hurts)
        or ("differs" in kinds and version.training.startswith("differs"))
        or ("failed" in kinds and c.judgement.verdict in ("failed", "both failed", "blocked"))
    )
