"""Over settings: scaling efficiency by workers, best batch against best batch, performance profiles, largest batches.

Trials of different settings run in separate processes and are not paired, so differences of their mean logs have
Welch's interval (Welch 1947); arms at their largest batches in one setting are paired. Throughput is samples a second.
A trial's value is the mean log over its rounds; the trial is the sample, as everywhere.

Performance profiles (Dolan and More 2002) say how often an arm is within a factor of the best. A setting in which an
arm failed, or was never measured, counts against it: its cost is infinite. Nothing is dropped. The cost is seconds a
sample, the geometric mean of the arm's legs in the setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from scipy import special

from raybench.analysis.arrays import dense, parse_object
from raybench.analysis.legs import Legs
from raybench.analysis.pairs import mean_by
from raybench.statistics.estimate import Estimate, ratio_estimate
from raybench.statistics.inference import Floats, Integers, t_interval


@dataclass(frozen=True)
class Efficiency:
    """An arm on `workers` against itself on the fewest workers: 1 is perfect scaling."""

    hardware: str
    model: str
    dataset: str
    precision: str
    arm: str
    scaling: str  # `strong`: same global batch; `weak`: same batch per worker
    workers: int
    base_workers: int
    efficiency: Estimate
    base_trials: int

    COLUMNS: ClassVar[Mapping[str, str]] = {
        **{name: name for name in ("hardware", "model", "dataset", "precision", "arm", "scaling")},
        "workers": "workers",
        "base_workers": "base_workers",
        "efficiency": "efficiency.value",
        "ci_low": "efficiency.low",
        "ci_high": "efficiency.high",
        "n_trials": "efficiency.n",
        "base_trials": "base_trials",
    }


@dataclass(frozen=True)
class BestBatch:
    """An arm at its fastest batch against the baseline at its own fastest: the total gain."""

    hardware: str
    model: str
    dataset: str
    precision: str
    workers: int
    arm: str
    batch: int
    baseline_batch: int
    speedup: Estimate  # of samples a second
    baseline_trials: int

    COLUMNS: ClassVar[Mapping[str, str]] = {
        **{name: name for name in ("hardware", "model", "dataset", "precision", "workers", "arm", "batch")},
        "baseline_batch": "baseline_batch",
        "speedup": "speedup.value",
        "ci_low": "speedup.low",
        "ci_high": "speedup.high",
        "n_trials": "speedup.n",
        "baseline_trials": "baseline_trials",
    }


@dataclass(frozen=True)
class _Series:
    """One arm's log throughput by trial in one setting."""

    leg: int
    logs: Floats
    trials: Integers  # each value's trial, ascending


def welch_interval(one: Floats, other: Floats, alpha: float) -> tuple[float, float, float]:
    """(difference of means, low, high) of two independent samples; the interval is nan below 2 values a side."""
    difference = float(one.mean() - other.mean())
    if len(one) < 2 or len(other) < 2:
        return difference, np.nan, np.nan
    parts = np.array([one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)])
    variance = parts.sum()
    if variance == 0:
        return difference, difference, difference
    degrees = variance**2 / np.sum(parts**2 / np.array([len(one) - 1, len(other) - 1]))
    half = float(special.stdtrit(degrees, 1 - alpha / 2)) * float(np.sqrt(variance))
    return difference, difference - half, difference + half


def _interval(one: _Series, other: _Series, alpha: float) -> tuple[float, float, float]:
    """(difference of means, low, high): paired where both have the same trials, else Welch's."""
    if not np.array_equal(one.trials, other.trials):
        return welch_interval(one.logs, other.logs, alpha)
    differences = one.logs - other.logs
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return mean, np.nan, np.nan
    low, high = t_interval(count, mean, differences.std(ddof=1), alpha)
    return mean, float(low), float(high)


def scaling_efficiency(legs: Legs, log_cost: Floats, alpha: float) -> tuple[Efficiency, ...]:
    """Every arm with several numbers of workers and all other setting columns equal."""
    if _constant(legs, "workers"):
        return ()
    found = []
    for scaling, batch in (("strong", "global_batch"), ("weak", "micro_batch")):
        for members in _groups(legs, log_cost, ("accumulation", batch), vary="workers", with_arm=True):
            first, *others = sorted(members, key=lambda series: legs.number["workers"][series.leg])
            base = int(legs.number["workers"][first.leg])
            for series in others:
                workers = int(legs.number["workers"][series.leg])
                mean, low, high = welch_interval(series.logs, first.logs, alpha) - np.log(workers / base)
                efficiency = ratio_estimate(mean, low, high, level=1 - alpha, n=len(series.logs))
                names = (*_names(legs, series.leg), legs.text["arm"][series.leg])
                found.append(Efficiency(*names, scaling, workers, base, efficiency, len(first.logs)))
    return tuple(found)


def best_against_best(legs: Legs, log_cost: Floats, baseline: str, alpha: float) -> tuple[BestBatch, ...]:
    """Each arm at its fastest batch against the baseline at its own, where the ledger has several batches.

    Batches of one setting (`batch_size: max`) ran side by side, so their trials are paired. The batch is chosen on the
    same trials that are compared, which flatters both sides a little.
    """
    if _constant(legs, "samples_per_step"):
        return ()
    found = []
    for members in _groups(legs, log_cost, ("workers",), vary="samples_per_step", with_arm=False):
        best: dict[str, _Series] = {}
        for series in members:
            arm = legs.text["arm"][series.leg]
            if arm not in best or series.logs.mean() > best[arm].logs.mean():
                best[arm] = series
        if baseline not in best:
            continue
        own = best.pop(baseline)
        for arm, series in sorted(best.items()):
            speedup = ratio_estimate(*_interval(series, own, alpha), level=1 - alpha, n=len(series.logs))
            batch, base_batch = (int(legs.number["samples_per_step"][one.leg]) for one in (series, own))
            names = (*_names(legs, series.leg), int(legs.number["workers"][series.leg]))
            found.append(BestBatch(*names, arm, batch, base_batch, speedup, len(own.logs)))
    return tuple(found)


def _constant(legs: Legs, name: str) -> bool:
    values = legs.number[name]
    return len(np.unique(values[np.isfinite(values)])) < 2


def _names(legs: Legs, leg: int) -> tuple[str, str, str, str]:
    return legs.hardware[leg], legs.text["model"][leg], legs.text["dataset"][leg], legs.text["precision"][leg]


def _groups(
    legs: Legs, log_cost: Floats, equal: tuple[str, ...], *, vary: str, with_arm: bool
) -> Iterator[list[_Series]]:
    """Series of settings that agree in everything but `vary`, where that has several values."""
    usable = np.flatnonzero(np.isfinite(log_cost))
    if not len(usable):
        return
    text, number = legs.text, legs.number

    def code(name: str) -> np.ndarray:
        return np.unique(np.nan_to_num(number[name], nan=-1.0), return_inverse=True)[1][usable]

    arm = text["arm"].codes[usable]
    group = dense(
        legs.hardware.codes[usable],
        *(text[name].codes[usable] for name in ("model", "dataset", "precision", "protocol")),
        *(code(name) for name in equal),
        *([arm] if with_arm else []),
    )
    series = dense(group, arm, text["setting_id"].codes[usable], code(vary))
    trial = dense(series, *(text[name].codes[usable] for name in ("space", "sweep", "trial_id")))
    trial_name = dense(*(text[name].codes[usable] for name in ("space", "sweep", "trial_id")))
    logs = mean_by(trial, -log_cost[usable], int(trial.max()) + 1)
    first = np.unique(trial, return_index=True)[1]
    starts = np.unique(series[first], return_index=True)[1]
    all_series = [
        _Series(int(usable[first[start]]), values, trials)
        for start, values, trials in zip(
            starts, np.split(logs, starts[1:]), np.split(trial_name[first], starts[1:]), strict=True
        )
    ]
    of_series = group[first[starts]]
    varied = number[vary][[one.leg for one in all_series]]
    bounds = np.unique(of_series, return_index=True)[1]
    for members in np.split(np.arange(len(all_series)), bounds[1:]):
        if len(np.unique(varied[members])) > 1:
            yield [all_series[i] for i in members]


_MOST_BREAKPOINTS: Final = 1000  # of a profile; with more settings, an even selection is kept


@dataclass(frozen=True)
class Profile:
    """One arm on one hardware: `share[i]` of the settings are within a factor `within[i]` of the best arm.

    The factors are 1 and those at which the share grows, so the step function is complete.
    """

    arm: str
    hardware: str
    n_settings: int  # settings in which any arm was measured
    within: tuple[float, ...]
    share: tuple[float, ...]


def performance_profiles(legs: Legs, log_cost: Floats) -> tuple[Profile, ...]:
    """The profile of every arm, the baseline included, on each hardware; `log_cost` has shape (legs,)."""
    measured = np.isfinite(log_cost)
    block, arm = dense(legs.hardware.codes, legs.text["setting_id"].codes), legs.text["arm"].codes
    num_arms = int(arm.max()) + 1
    table = mean_by((block * num_arms + arm)[measured], log_cost[measured], (int(block.max()) + 1) * num_arms)
    table = np.where(np.isnan(table), np.inf, table).reshape(-1, num_arms)
    best = table.min(axis=1, keepdims=True)
    hardware = np.zeros(len(table), dtype=np.int64)
    hardware[block] = legs.hardware.codes
    profiles = []
    for machine in np.unique(hardware):
        solved = (hardware == machine) & np.isfinite(best[:, 0])
        if not solved.any():
            continue
        ratios = table[solved] - best[solved]
        for code in np.unique(arm[legs.hardware.codes == machine]):
            within, share = _steps(ratios[:, code])
            name = legs.text["arm"].names[code]
            profiles.append(Profile(name, legs.hardware.names[machine], int(solved.sum()), within, share))
    return tuple(profiles)


def _steps(ratios: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(factors, share of settings within each) from log ratios to the best, shape (settings,); inf for a failure."""
    # Rounding must not put the best arm outside a factor of 1.
    reached = np.sort(np.where(ratios < 1e-12, 0.0, ratios)[np.isfinite(ratios)])
    factors, counts = np.unique(np.append(0.0, reached), return_counts=True)
    shares = (np.cumsum(counts) - 1) / len(ratios)
    kept = np.unique(np.linspace(0, len(factors) - 1, min(len(factors), _MOST_BREAKPOINTS)).astype(int))
    return tuple(np.exp(factors[kept]).tolist()), tuple(shares[kept].tolist())


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch of one arm in a setting on one hardware."""

    hardware: str
    setting_id: str
    setting: str
    arm: str
    micro_batch: int | None  # samples per worker; None where not even one fits
    global_batch: int | None
    num_probes: int
    peak_bytes: int | None  # at that batch, on the worker with most
    refused_batch: int | None  # smallest micro-batch that did not fit; None where the dataset was the limit
    refused_because: str | None


def largest_batches(legs: Legs) -> tuple[LargestBatch, ...]:
    """One record for each arm whose largest batch was searched for, by hardware, setting and arm."""
    text = legs.text
    sought = np.flatnonzero(text["batch_probes"].codes >= 0)
    if not len(sought):
        return ()
    group = dense(*(column.codes[sought] for column in (legs.hardware, text["setting_id"], text["arm"])))
    found = []
    for row in sought[np.unique(group, return_index=True)[1]]:
        evidence = parse_object(text["batch_probes"][row])
        size, probes = evidence.get("micro_batch"), evidence.get("probes") or []
        refused: dict[str, Any] = min((p for p in probes if not p["fits"]), key=lambda p: p["micro_batch"], default={})
        taken: dict[str, Any] = next((p for p in probes if p["micro_batch"] == size), {})
        batch = legs.number["global_batch"][row]
        found.append(
            LargestBatch(
                legs.hardware[row], text["setting_id"][row], text["setting"][row], text["arm"][row], size,
                int(batch) if np.isfinite(batch) else None, len(probes), taken.get("peak_bytes"),
                refused.get("micro_batch"), refused.get("reason"),
            )
        )  # fmt: skip
    return tuple(found)
