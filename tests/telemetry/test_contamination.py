"""The rule by which a leg is contaminated, on readings made for it."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.telemetry.contamination import contamination

FLAT = {"min": 1410.0, "median": 1410.0, "max": 1410.0, "trace": [1410.0] * 16}
FALLING = {"min": 1200.0, "median": 1300.0, "max": 1410.0, "trace": [1410.0] * 8 + [1320.0] * 8}


def host(**changes: Any) -> dict[str, Any]:
    clean = {
        "cores": 8, "foreign_cores": 0.3, "foreign_cores_resolution": 0.02, "stolen_cores": 0.0,
        "throttled_share": None, "frequency_mhz": None,
    }  # fmt: skip
    return {**clean, **changes}


def gpu(**changes: Any) -> dict[str, Any]:
    return {"throttle_reasons": {"sw_power_cap": 1.0}, "foreign_processes": 0, "sm_clock_mhz": FLAT, **changes}


@pytest.mark.parametrize(
    ("of_host", "of_gpu", "reasons"),
    [
        ({}, {}, []),
        ({"foreign_cores": 0.56}, {}, []),  # 5 % of 8 is 0.4, Ray may take 0.15, and the reading is exact to 0.02
        ({"foreign_cores": 0.58}, {}, ["foreign CPU use"]),
        ({"stolen_cores": 0.5}, {}, ["CPU time stolen by the hypervisor"]),
        ({"throttled_share": 0.02}, {}, ["CPU limit of the container"]),
        ({"frequency_mhz": {"trace": [3000.0] * 4 + [2600.0] * 4}}, {}, ["CPU clock drop"]),
        ({"frequency_mhz": {"trace": [3000.0, 2600.0]}}, {}, []),  # too few to say
        ({}, {"throttle_reasons": {"hw_thermal_slowdown": 0.1}}, ["GPU throttled: hw_thermal_slowdown"]),
        ({}, {"foreign_processes": 1}, ["foreign process on the GPU"]),
        ({}, {"sm_clock_mhz": FALLING}, ["GPU clock drop"]),
        ({}, {"throttle_reasons": None, "foreign_processes": None, "sm_clock_mhz": None}, []),
        ({"foreign_cores": None}, {}, None),  # not known is not clean
        ({"foreign_cores": None}, {"foreign_processes": 1}, ["foreign process on the GPU"]),
    ],
)
def test_each_limit(of_host: dict[str, Any], of_gpu: dict[str, Any], reasons: list[str] | None) -> None:
    assert contamination([{"host": host(**of_host), "gpus": [gpu(**of_gpu)]}]) == reasons


def test_one_node_is_enough_and_no_reading_is_not_known() -> None:
    clean, busy = ({"host": host(foreign_cores=cores), "gpus": []} for cores in (0.1, 3.0))
    assert contamination([clean, busy, busy]) == ["foreign CPU use"]
    assert contamination([]) is None
