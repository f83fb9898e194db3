"""How much of the device an arm used: achieved operations a second over the peak, the same work counted for every arm.

FLOPs are counted once, on the plain model's forward pass of one image; a training step is taken as three times that
(the backward pass computes gradients of inputs and of weights: Kaplan et al. 2020, section 2.1). What an arm computes
besides, as activations again under checkpointing, is no useful work and not counted (model FLOPs utilization, Chowdhery
et al. 2022, appendix B). The peak is the datasheet's where it is known, else what a matrix product reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from raybench.analysis.columns import parse_object
from raybench.analysis.inference import Integers
from raybench.analysis.pairs import Pairs
from raybench.machine.peaks import datasheet_tflops

TRAINING_OVER_FORWARD: Final = 3


def flops_and_peaks(pairs: Pairs) -> tuple[list[float | None], list[str | None]]:
    """By comparison: FLOPs of a training step a sample, and in words which peak the shares are of."""
    return _flops(pairs, pairs.example), [None if peak is None else peak[1] for peak in _peaks(pairs)]


def achieved(
    pairs: Pairs, example: Integers, rates: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """(TFLOP/s of all workers together, its share of the devices' peak) by comparison.

    `example` is a leg of the side in question, (k,); `rates` its samples a second, of all workers together.
    """
    workers = pairs.legs.number["workers"][pairs.example].tolist()
    flops = _flops(pairs, example)
    tflops = [None if f is None or r is None else f * r / 1e12 for f, r in zip(flops, rates, strict=True)]
    shares = [
        None if t is None or peak is None or not n > 0 else t / (peak[0] * n)
        for t, peak, n in zip(tflops, _peaks(pairs), workers, strict=True)
    ]
    return tflops, shares


def _flops(pairs: Pairs, legs: Integers) -> list[float | None]:
    """FLOPs of a training step a sample, of these legs."""
    column = pairs.legs.text["facts"]
    found: dict[int, float | None] = {}
    for code in np.unique(column.codes[legs]).tolist():
        forward = parse_object(column.names[code] if code >= 0 else "").get("flops_per_image")
        known = isinstance(forward, int | float) and forward > 0
        found[code] = TRAINING_OVER_FORWARD * float(forward) if known else None  # type: ignore[arg-type]
    return [found[code] for code in column.codes[legs].tolist()]


def _peaks(pairs: Pairs) -> list[tuple[float, str] | None]:
    """The peak of one worker's device in TFLOP/s for each comparison, and in words which it is."""
    column, precisions = pairs.legs.text["environment"], pairs.legs.text["precision"]
    gpus = {
        code: str(parse_object(column.names[code] if code >= 0 else "").get("gpu") or "")
        for code in np.unique(column.codes[pairs.example]).tolist()
    }
    reached = pairs.legs.number["matmul_tflops"]
    reached = np.log(np.where(reached > 0, reached, np.nan))
    measured = np.exp(pairs.moments(pairs.by_trial(reached[pairs.base_leg]))[0])
    found: list[tuple[float, str] | None] = []
    for leg, matmul in zip(pairs.example.tolist(), measured.tolist(), strict=True):
        precision, gpu = precisions[leg], gpus[int(column.codes[leg])]
        datasheet = datasheet_tflops(gpu, precision)
        if datasheet is not None:
            found.append((datasheet, f"{gpu}, {precision} dense, {datasheet:g} TFLOP/s by its datasheet"))
        elif np.isfinite(matmul):
            found.append((matmul, f"a {precision} matrix product, {matmul:.3g} TFLOP/s a worker as measured"))
        else:
            found.append(None)
    return found
