"""The noise of a comparison, learned from the whole sweep: moderated variances (Smyth 2004, limma).

With 3 trials a comparison's own variance is a poor estimate (2 degrees of freedom), but a sweep has many of them.
The model: the true variances are draws from a scaled inverse chi-squared distribution, sigma^2 ~ d0 s0^2 / chi2(d0), so
a sample variance s^2 with df degrees of freedom follows s0^2 F(df, d0). From all of them (limma's `fitFDist`):

    e    = log s^2 - digamma(df / 2) + log(df / 2)
    v    = var(e) - mean(trigamma(df / 2))                 what the true log variances scatter by
    d0   = 2 trigamma^-1(v)
    s0^2 = exp(mean(e) + digamma(d0 / 2) - log(d0 / 2))

and each comparison's variance becomes (d0 s0^2 + df s^2) / (d0 + df), with min(d0 + df, sum df) degrees of freedom.

One thing differs from limma. v is itself uncertain, and where it comes out too small (d0 too large) the test is
liberal, most of all in the tails that Holm uses: with 20 to 40 comparisons of 3 trials, 10 % of sweeps made a wrong
claim at a nominal 5 %. So `CAUTION` standard errors are added to v, from the normal theory of a sample variance,
se(v)^2 = (2 (mean(trigamma) + v)^2 + mean(psi'''(df / 2))) / k. docs/method.md has the rates with and without it.

Source: G. Smyth, Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments, Statistical Applications in Genetics and Molecular Biology 3(1), 2004, section 6.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from raybench.statistics.multiplicity import Floats

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Variance = Literal["moderated", "own"]
VARIANCES: Final[tuple[Variance, ...]] = ("moderated", "own")

CAUTION: Final = 0.35  # standard errors of v; 0 is limma
LEAST_COMPARISONS: Final = 20  # fewer do not show how variances scatter: each keeps its own
LEAST_OF_A_GROUP: Final = 25  # an arm with fewer uses all arms on its hardware


def trigamma_inverse(values: ArrayLike) -> Floats:
    """The x > 0 with trigamma(x) = values: Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    y = np.clip(np.asarray(values, dtype=float), 1e-8, 1e8)
    x = 0.5 + 1 / y
    for _ in range(60):
        trigamma = special.polygamma(1, x)
        step = trigamma * (1 - trigamma / y) / special.polygamma(2, x)
        x = x + step
        if np.all(np.abs(step) <= 1e-10 * x):
            break
    return np.asarray(x)


def fit_prior(variances: ArrayLike, degrees: ArrayLike, caution: float = CAUTION) -> tuple[Floats, Floats]:
    """(s0^2, d0) of sample variances (..., k) with their degrees of freedom, each of shape (...,).

    Entries that are nan or have no degrees do not count. d0 is infinite where the variances scatter no more than
    samples of one variance, and 0 (s0^2 is nan) where fewer than 2 count.
    """
    variance, df = np.broadcast_arrays(np.asarray(variances, dtype=float), np.asarray(degrees, dtype=float))
    usable = np.isfinite(variance) & (df > 0)
    number = np.count_nonzero(usable, axis=-1)
    typical = _medians(variance, usable)
    usable = usable & (typical > 0)
    # As in limma, a variance of 0 by rounding counts as a very small one.
    log_variance = np.log(np.where(usable, np.maximum(variance, 1e-5 * typical), 1.0))
    half = np.where(usable, df, 2.0) / 2
    e = log_variance - special.digamma(half) + np.log(half)
    mean = _mean(e, usable)
    total = np.sum(np.where(usable, (e - mean[..., None]) ** 2, 0.0), axis=-1) / np.maximum(number - 1, 1)
    sampling = _mean(special.polygamma(1, half), usable)
    scatter = np.maximum(total - sampling, 0.0)
    error = np.sqrt((2 * (sampling + scatter) ** 2 + _mean(special.polygamma(3, half), usable)) / np.maximum(number, 1))
    v = scatter + caution * error
    enough = (number >= 2) & (typical[..., 0] > 0)
    finite = enough & (v > 1e-7)
    d0 = 2 * trigamma_inverse(np.where(finite, v, 1.0))
    shift = np.where(finite, special.digamma(d0 / 2) - np.log(d0 / 2), 0.0)
    return np.where(enough, np.exp(mean + shift), np.nan), np.where(finite, d0, np.where(enough, np.inf, 0.0))


def moderate(
    count: ArrayLike, deviation: ArrayLike, arm: Integers | None = None, hardware: Integers | None = None
) -> tuple[Floats, Floats]:
    """(moderated deviations, their degrees of freedom) of comparisons with `count` trials, shape (..., k).

    The prior comes from the comparison's arm on its hardware (codes, (k,); by default one group) if that has
    `LEAST_OF_A_GROUP` comparisons, else from its hardware; with fewer than `LEAST_COMPARISONS` there, a comparison
    keeps its own deviation and count - 1 degrees. nan and 0 where count < 2.
    """
    n, s = np.broadcast_arrays(np.asarray(count, dtype=float), np.asarray(deviation, dtype=float))
    known = (n >= 2) & np.isfinite(s)
    result, degrees = np.where(known, s, np.nan), np.where(known, n - 1, 0.0)
    own, own_degrees = result.copy(), degrees.copy()
    always = known.all(axis=tuple(range(known.ndim - 1))) if known.ndim > 1 else known
    for members, source in _pools(always, arm, hardware):
        variance, d0 = fit_prior(own[..., source] ** 2, own_degrees[..., source])
        weight = np.where(np.isfinite(d0), d0, 1e8)[..., None]
        df, squares = own_degrees[..., members], own[..., members] ** 2
        moderated = np.sqrt((weight * variance[..., None] + df * squares) / (weight + df))
        total = np.minimum(d0[..., None] + df, own_degrees[..., source].sum(axis=-1, keepdims=True))
        shrunk = (d0[..., None] > 0) & (df > 0)
        result[..., members] = np.where(shrunk, moderated, own[..., members])
        degrees[..., members] = np.where(shrunk, total, df)
    return result, degrees


def _pools(known: Mask, arm: Integers | None, hardware: Integers | None) -> Iterator[tuple[Mask, Mask]]:
    """(comparisons, those that give their prior) for every group that is large enough; masks of shape (k,)."""
    machines = np.zeros(known.size, dtype=np.int64) if hardware is None else np.asarray(hardware)
    arms = np.zeros(known.size, dtype=np.int64) if arm is None else np.asarray(arm)
    for machine in np.unique(machines):
        here = machines == machine
        if np.count_nonzero(here & known) < LEAST_COMPARISONS:
            continue
        rest = here.copy()
        for one in np.unique(arms[here]):
            members = here & (arms == one)
            if np.count_nonzero(members & known) >= LEAST_OF_A_GROUP:
                yield members, members
                rest &= ~members
        if rest.any():
            yield rest, here


def _mean(values: Floats, usable: Mask) -> Floats:
    number = np.maximum(np.count_nonzero(usable, axis=-1), 1)
    return np.asarray(np.sum(np.where(usable, values, 0.0), axis=-1) / number)


def _medians(values: Floats, usable: Mask) -> Floats:
    """Lower median of the usable entries of each row, (..., 1); 0 where there are none."""
    number = np.count_nonzero(usable, axis=-1, keepdims=True)
    ordered = np.sort(np.where(usable, values, np.inf), axis=-1)
    middle = np.take_along_axis(ordered, np.maximum(number - 1, 0) // 2, axis=-1)
    return np.where(number > 0, middle, 0.0)
