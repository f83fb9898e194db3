"""Numbers as text."""

from __future__ import annotations

import pytest

from raybench.show import units
from raybench.statistics.estimate import Estimate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.ratio(0.7031), "0.703"),
        (units.ratio(None), ""),
        (units.between(0.6824, 0.724), "0.682 to 0.724"),
        (units.between(0.6824, None), ""),
        (units.between(0.0004, 1198600.759), "0.000 to 1,198,601"),
        (units.change(0.31), "takes 3.23 times as long"),
        (units.change(1.25), "is 1.25 times as fast"),
        (units.change(0.005), "takes 200 times as long"),
        (units.percent(0.03), "3 %"),
        (units.percent(0.0254), "2.5 %"),
        (units.signed_percent(0.0052), "+0.52 %"),
        (units.points(-0.0042), "-0.42"),
        (units.size(85.3 * 2**20), "85.3 MiB"),
        (units.size(5.1 * 2**30), "5.10 GiB"),
        (units.size(-1.0), "0.0 MiB"),
        (units.cost(0.01234, "step"), "12.34 ms"),
        (units.cost(2**30, "byte"), "1.00 GiB"),
        (units.cost(None, "step"), ""),
        (units.duration(50), "50 s"),
        (units.duration(700), "12 min"),
        (units.duration(12600), "3.5 h"),
        (units.rate(1240.4, "tokens"), "1,240 tokens/s"),
        (units.energy(850), "850 J"),
        (units.energy(3.6e6), "1.00 kWh"),
        (units.money(1234.5), "1,234.50"),
        (units.count(1, "leg"), "1 leg"),
        (units.count(1204, "leg"), "1,204 legs"),
        (units.estimate(Estimate(0.703, 0.682, None, "ratio", 0.95, 5)), "0.703 [0.682, ?]"),
        (units.estimate(Estimate(0.703, None, None, "ratio", None, 1)), "0.703"),
    ],
)
def test_each_kind_of_number(text: str, expected: str) -> None:
    assert text == expected
