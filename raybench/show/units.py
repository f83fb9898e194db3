"""Formats each kind of number, in one place. A missing number is an empty text.

Ratios are speedups unless a function says otherwise: 0.25 means that the arm takes four times as long.
"""

from __future__ import annotations

from typing import Final

from raybench.statistics.estimate import Estimate

_SECONDS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def ratio(value: float | None, digits: int = 3) -> str:
    """A ratio: `0.703`; `1,198,601` or `2e+09` where only its size matters."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if value < 1e3 else f"{value:,.0f}" if value < 1e7 else f"{value:.0e}"


def between(low: float | None, high: float | None) -> str:
    """The interval of a ratio: `0.682 to 0.724`."""
    return "" if low is None or high is None else f"{ratio(low)} to {ratio(high)}"


def about(value: float | None) -> str:
    """A ratio for a sentence, with about three significant digits: `0.80`, `3.24`, `12.1`, `240`."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share for reading: `3 %`, `2.5 %`, `41 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or abs(value - round(value)) < 0.05 else f"{value:.1f} %"


def signed_percent(share: float | None) -> str:
    """A relative change, with its sign: `+0.52 %`."""
    return "" if share is None else f"{100 * share:+.2f} %"


def spread(share: float | None) -> str:
    """A standard deviation of logs, as a percentage: `1.84 %`."""
    return "" if share is None else f"{100 * share:.2f} %"


def points(accuracy: float | None) -> str:
    """A difference of accuracies in percentage points: `-0.42`."""
    return "" if accuracy is None else f"{100 * accuracy:+.2f}"


def size(num_bytes: float) -> str:
    """Bytes in MiB or GiB: `85.3 MiB`."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes:z.1f} MiB" if abs(mebibytes) < 1024 else f"{mebibytes / 1024:.2f} GiB"


def cost(value: float | None, per: str) -> str:
    """A comparison's cost, in seconds or (where `per` is `byte`) bytes: `12.34 ms`."""
    if value is None:
        return ""
    if per == "byte":
        return size(value)
    for scale, name in _SECONDS:
        if value >= scale:
            return f"{value / scale:.4g} {name}"
    return f"{value / 1e-9:.4g} ns"


def duration(seconds: float | None) -> str:
    """A time to wait: `50 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def energy(joules: float | None) -> str:
    """Energy: `850 J`, `12.4 kJ`, and from a megajoule on `0.42 kWh`."""
    if joules is None:
        return ""
    if joules < 1e3:
        return f"{joules:.0f} J"
    return f"{joules / 1e3:.1f} kJ" if joules < 1e6 else f"{joules / 3.6e6:.2f} kWh"


def number(value: float | None) -> str:
    """A number of things that may be fractional: `1,240`, `12.4`."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rate(value: float | None, what: str) -> str:
    """Things a second: `1,240 tokens/s`."""
    return "" if value is None else f"{number(value)} {what}/s"


def money(amount: float) -> str:
    """An amount, in the currency of its price: `12.40`."""
    return f"{amount:,.2f}"


def count(number: float, thing: str) -> str:
    """A number of things: `1 leg`, `1,204 legs`."""
    return f"{number:,.0f} {thing}" if number == 1 else f"{number:,.0f} {thing}s"


def change(speedup: float, per: str = "step") -> str:
    """What a speedup means for the time: `takes 3.24 times as long`, `is 1.25 times as fast`; per `byte` it is the
    baseline's memory over the arm's: `takes 3.24 times as much memory`."""
    if per == "byte":
        return f"takes {about(1 / speedup)} times as much memory"
    if speedup >= 1:
        return f"is {about(speedup)} times as fast"
    return f"takes {about(1 / speedup)} times as long"


def estimate(found: Estimate) -> str:
    """A ratio with its interval: `0.703 [0.682, 0.724]`; a missing end is `?`."""
    ends = [ratio(end) or "?" for end in (found.low, found.high)]
    return ratio(found.value) + (f" [{ends[0]}, {ends[1]}]" if found.level is not None else "")


def interval(found: Estimate) -> str:
    """The interval of a ratio alone."""
    return between(found.low, found.high)
