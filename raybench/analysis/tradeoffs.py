"""What a speedup costs or brings besides: memory, accuracy, set-up time, work done; by comparison, on paired trials.

Arrays have shape (k,), nan where the ledger has no value. Every interval has level 1 - alpha and comes from the
trials, paired as for the speedup. Source: Fieller 1954 for the interval of a ratio of two means.

Work is the share of the device that an arm used: achieved operations a second over the peak, with the same work
counted for every arm. A language model's FLOPs come from its task: 6N plus attention per token. Other models' are
counted once, on the plain model's forward pass of a sample; a training step is three times that (the backward pass
computes gradients of inputs and of weights: Kaplan et al. 2020, section 2.1). Extra computation, such as recomputed
activations under checkpointing, is not counted (model FLOPs utilization, Chowdhery et al. 2022, appendix B). The peak
is the datasheet's where known, else what a matrix product reached; the product's share stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from raybench.analysis.arrays import parse_object
from raybench.analysis.pairs import Pairs, group_moments
from raybench.declare.memory_need import bucket_bytes
from raybench.machine.peaks import datasheet_tflops
from raybench.statistics.inference import Floats, Integers, t_interval, t_quantile

T = TypeVar("T")
NOT_WORSE = "not worse"
WORSE = "worse"
UNCLEAR = "unclear"


@dataclass(frozen=True)
class Means:
    """Means over trials with their intervals and numbers of trials; arrays of shape (k,)."""

    mean: Floats
    low: Floats
    high: Floats
    count: Integers


def paired_change(pairs: Pairs, arm: Floats, base: Floats, alpha: float) -> Means:
    """Arm minus baseline of values by paired round, (c,): mean over trials and its t interval."""
    trials = pairs.by_trial(arm - base)
    there = np.isfinite(trials)
    owner = pairs.comparison[there]
    mean, deviation = group_moments(trials[there], owner, len(pairs.counts))
    count = np.bincount(owner, minlength=len(pairs.counts))
    low, high = t_interval(count, mean, deviation, alpha)
    return Means(mean, low, high, count)


@dataclass(frozen=True)
class Memory:
    """Peak memory by comparison: the device's where both sides have it, else the host's."""

    of: list[str | None]
    log_ratio: Means  # arm over baseline
    saved_bytes: Means  # baseline minus arm
    base_bytes: Floats  # geometric means
    arm_bytes: Floats


def memory(pairs: Pairs, alpha: float) -> Memory:
    """Every comparison's peak memory."""
    host, device = _memory_of(pairs, "host", alpha), _memory_of(pairs, "device", alpha)
    there = np.isfinite(device.log_ratio.mean)

    def pick(one: Floats, other: Floats) -> Floats:
        return np.where(there, one, other)

    def means(one: Means, other: Means) -> Means:
        count = np.where(there, one.count, other.count)
        return Means(pick(one.mean, other.mean), pick(one.low, other.low), pick(one.high, other.high), count)

    return Memory(
        [one or other for one, other in zip(device.of, host.of, strict=True)],
        means(device.log_ratio, host.log_ratio),
        means(device.saved_bytes, host.saved_bytes),
        pick(device.base_bytes, host.base_bytes),
        pick(device.arm_bytes, host.arm_bytes),
    )


def _memory_of(pairs: Pairs, kind: str, alpha: float) -> Memory:
    peak = pairs.legs.number[f"peak_{kind}_bytes"]
    peak = np.where(peak > 0, peak, np.nan)
    arm, base = peak[pairs.arm_leg], peak[pairs.base_leg]
    log_ratio = paired_change(pairs, np.log(arm), np.log(base), alpha)
    base_bytes, arm_bytes = (np.exp(pairs.moments(pairs.by_trial(np.log(side)))[0]) for side in (base, arm))
    of = [kind if known else None for known in np.isfinite(log_ratio.mean)]
    return Memory(of, log_ratio, paired_change(pairs, base, arm, alpha), base_bytes, arm_bytes)


def memory_parts(pairs: Pairs, legs: Integers) -> list[dict[str, float] | None]:
    """Bytes by content for one leg of each comparison: the rank that holds most, as its engine reports it."""

    def read(parts: Mapping[str, Any]) -> dict[str, float] | None:
        shown = {part: [b for b in held if b is not None] for part, held in parts.items() if isinstance(held, list)}
        return {part: float(max(held)) for part, held in shown.items() if held} or None

    return _of_each(pairs, "memory_parts", legs, read)


def predicted_memory(pairs: Pairs, legs: Integers) -> tuple[list[dict[str, float] | None], list[float | None]]:
    """For one leg of each comparison: a worker's predicted bytes by content, and the bytes of ZeRO's buckets."""

    def read(facts: Mapping[str, Any]) -> tuple[dict[str, float] | None, float | None]:
        informative = facts.get("informative")
        stated = informative if isinstance(informative, dict) else {}
        parts, config = (stated.get(key) for key in ("predicted_memory", "deepspeed_config"))
        known = parts.items() if isinstance(parts, dict) else ()
        predicted = {part: float(size) for part, size in known if isinstance(size, int | float)}
        return predicted or None, float(bucket_bytes(config)) or None if isinstance(config, dict) else None

    found = _of_each(pairs, "facts", legs, read)
    return [parts for parts, _ in found], [buckets for _, buckets in found]


def _of_each(pairs: Pairs, column: str, legs: Integers, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """`read` of each leg's JSON object in a column; each distinct text is read once."""
    coded = pairs.legs.text[column]
    codes = coded.codes[legs].tolist()
    found = {code: read(parse_object(coded.names[code] if code >= 0 else "")) for code in set(codes)}
    return [found[code] for code in codes]


def accuracy(pairs: Pairs, alpha: float) -> Means:
    """Final accuracy, arm minus baseline."""
    values = pairs.legs.number["accuracy"]
    return paired_change(pairs, values[pairs.arm_leg], values[pairs.base_leg], alpha)


def quality_verdicts(pairs: Pairs, margin: float, alpha: float) -> list[str | None]:
    """Whether an arm is as accurate as the baseline within `margin` (an accuracy: 0.01 is one point). Without
    classification: whether its held-out loss is as low, within that share of it.

    `not worse` where the one-sided interval of level 1 - alpha lies above -margin (non-inferiority), `worse` where it
    lies below, `unclear` otherwise and with one trial; None where nothing was evaluated.
    """
    right, loss = pairs.legs.number["accuracy"], pairs.legs.number["eval_loss"]
    values = np.where(np.isfinite(right), right, -np.log(np.where(loss > 0, loss, np.nan)))
    estimate = paired_change(pairs, values[pairs.arm_leg], values[pairs.base_leg], 2 * alpha)
    verdicts = np.select([estimate.low > -margin, estimate.high < -margin], [NOT_WORSE, WORSE], UNCLEAR)
    return [str(v) if known else None for v, known in zip(verdicts, np.isfinite(estimate.mean), strict=True)]


def break_even_steps(pairs: Pairs, alpha: float) -> Means:
    """Steps until an arm's longer set-up (compilation included) is repaid by its faster steps.

    0 where it pays at once, infinity where it never does. nan where the set-up is unknown, or where the arm starts
    faster but steps slower: it loses a lead, so nothing is repaid. The interval is `repayment_interval`'s.
    """
    legs = pairs.legs
    setup = legs.number["setup_seconds"]
    seconds = np.where(legs.ok, legs.steps.mean_seconds, np.nan)
    extra = pairs.by_trial(setup[pairs.arm_leg] - setup[pairs.base_leg])
    gain = pairs.by_trial(seconds[pairs.base_leg] - seconds[pairs.arm_leg])
    there = np.isfinite(extra) & np.isfinite(gain)
    owner, size = pairs.comparison[there], len(pairs.counts)
    count = np.bincount(owner, minlength=size)
    (x, sx), (y, sy) = (group_moments(v[there], owner, size) for v in (extra, gain))
    products = (extra[there] - x[owner]) * (gain[there] - y[owner])
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = np.bincount(owner, products, minlength=size) / (count - 1)
        t2 = t_quantile(count, alpha / 2) ** 2 / count
        low, high = repayment_interval(x, y, sx**2 * t2, sy**2 * t2, covariance * t2)
        mean = np.where(x <= 0, np.where(y >= 0, 0.0, np.nan), np.where(y > 0, x / y, np.inf))
    return Means(mean, low, high, count.astype(np.int64))


def repayment_interval(x: Floats, y: Floats, xx: Floats, yy: Floats, xy: Floats) -> tuple[Floats, Floats]:
    """Interval of the number of steps T that repays an extra x by a gain of y a step; the upper end may be infinity.

    `xx`, `yy`, `xy` are t squared times the variances and the covariance of the means x and y. All (k,). The interval
    spans every T that is not rejected: T > 0 by Fieller's test of x - T y = 0; 0 (pays at once: x <= 0, y >= 0) and
    infinity (never pays: x > 0, y <= 0) by the one-sided t tests of x and of y. Each true T is rejected with
    probability at most alpha, so the interval covers; it always holds the estimate. nan where every T is rejected (the
    arm starts faster and is shown to step slower), or where nothing is known.
    """
    reach_x, reach_y = np.sqrt(xx), np.sqrt(yy)
    at_once = (x <= reach_x) & (y >= -reach_y)
    never = (x >= -reach_x) & (y <= reach_y)
    a, b, c = y**2 - yy, x * y - xy, x**2 - xx
    squares = b**2 - a * c
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(squares, 0.0))
        first, last = np.sort(np.stack([(b - root) / a, (b + root) / a]), axis=0)
    # Fieller's set: between the roots where the gain differs from 0; otherwise outside them, or everything.
    bounded, outside = a > 0, (a < 0) & (squares > 0)
    lowest = np.where(bounded, np.maximum(first, 0.0), np.where(outside & (first <= 0), np.maximum(last, 0.0), 0.0))
    highest = np.where(bounded, last, np.inf)
    repaid = (y >= -reach_y) & (highest > 0)
    known = (at_once | never | repaid) & np.isfinite(x + y + xx + yy + xy)
    low = np.where(at_once, 0.0, np.where(repaid, lowest, np.inf))
    high = np.where(never, np.inf, np.where(repaid, highest, 0.0))
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


TRAINING_OVER_FORWARD: Final = 3


def flops_and_peaks(pairs: Pairs) -> tuple[list[float | None], list[str | None]]:
    """By comparison: FLOPs of a training step per sample, and a text saying which peak the shares refer to.

    Sides of different precisions have a peak each.
    """
    return _flops(pairs, pairs.example), [_peak_name(base, arm) for base, arm in zip(*_peaks(pairs), strict=True)]


def _peak_name(base: _Peak, arm: _Peak) -> str | None:
    if arm is base:
        return arm.name
    named = [f"{side}: {one.name}" for side, one in (("arm", arm), ("baseline", base)) if one.name]
    return "; ".join(named) or None


def achieved(
    pairs: Pairs, example: Integers, rates: Sequence[float | None], *, of_arm: bool
) -> tuple[list[float | None], list[float | None], list[float | None]]:
    """By comparison: (TFLOP/s of all workers together, its share of the devices' peak, its share of a matrix product).

    Of one side: `example` is a leg of each comparison, (k,), `rates` are its samples a second, all workers together.
    """
    workers = pairs.legs.number["workers"][pairs.example].tolist()
    flops, peaks = _flops(pairs, example), _peaks(pairs)[of_arm]
    tflops = [None if f is None or r is None else f * r / 1e12 for f, r in zip(flops, rates, strict=True)]

    def shares(most: Sequence[float | None]) -> list[float | None]:
        return [
            None if t is None or peak is None or not n > 0 else t / (peak * n)
            for t, peak, n in zip(tflops, most, workers, strict=True)
        ]

    return tflops, shares([peak.tflops for peak in peaks]), shares([peak.matmul for peak in peaks])


def _flops(pairs: Pairs, legs: Integers) -> list[float | None]:
    """These legs' FLOPs of a training step per sample."""
    return _of_each(pairs, "facts", legs, training_flops)


def training_flops(facts: Mapping[str, Any]) -> float | None:
    """FLOPs of a training step per sample, from a leg's facts."""
    whole, forward = facts.get("training_flops_per_sample"), facts.get("flops_per_image")
    flops = whole if whole else TRAINING_OVER_FORWARD * forward if isinstance(forward, int | float) else None
    return float(flops) if isinstance(flops, int | float) and flops > 0 else None


@dataclass(frozen=True)
class _Peak:
    """The peak rate of one worker's device, in TFLOP/s; None where unknown."""

    tflops: float | None  # from its datasheet, else as `matmul`
    matmul: float | None  # what a matrix product reached
    name: str | None  # which peak, in words


def _peaks(pairs: Pairs) -> tuple[list[_Peak], list[_Peak]]:
    """The peaks of each comparison's devices, for the baseline and for the arm; one peak where the precision is one."""
    base = _peaks_of(pairs, pairs.base_example, pairs.base_leg)
    arm = _peaks_of(pairs, pairs.example, pairs.arm_leg)
    precision = pairs.legs.text["precision"]
    same = [precision[a] == precision[b] for a, b in zip(pairs.example, pairs.base_example, strict=True)]
    return base, [b if is_same else a for a, b, is_same in zip(arm, base, same, strict=True)]


def _peaks_of(pairs: Pairs, example: Integers, leg: Integers) -> list[_Peak]:
    """The peak of each comparison's devices at the precision of one side's legs: `example` (k,), `leg` of rounds."""
    gpus = _of_each(pairs, "environment", example, lambda environment: str(environment.get("gpu") or ""))
    reached = pairs.legs.number["matmul_tflops"]
    reached = np.log(np.where(reached > 0, reached, np.nan))
    measured = np.exp(pairs.moments(pairs.by_trial(reached[leg]))[0])
    found = []
    for row, gpu, value in zip(example.tolist(), gpus, measured.tolist(), strict=True):
        precision = pairs.legs.text["precision"][row]
        datasheet, matmul = datasheet_tflops(gpu, precision), value if np.isfinite(value) else None
        product = "" if matmul is None else f"a {precision} matrix product, {matmul:.3g} TFLOP/s a worker as measured"
        if datasheet is not None:
            sheet = f"{gpu}, {precision} dense, {datasheet:g} TFLOP/s by its datasheet"
            found.append(_Peak(datasheet, matmul, "; ".join(filter(None, [sheet, product]))))
        else:
            found.append(_Peak(matmul, matmul, product or None))
    return found
