"""The rule by which a leg is contaminated, on readings made for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raybench.telemetry.contamination import contamination
from raybench.telemetry.window import GpuReading, HostReading, Levels, NodeReading

FLAT = Levels(1410.0, 1410.0, 1410.0, [1410.0] * 16)
FALLING = Levels(1200.0, 1300.0, 1410.0, [1410.0] * 8 + [1320.0] * 8)
CLEAN_HOST = HostReading(
    cores=8, own_cores=2.0, foreign_cores=0.3, foreign_cores_resolution=0.02, foreign_cores_trace=[], stolen_cores=0.0,
    throttled_share=None, frequency_mhz=None,
)  # fmt: skip
CLEAN_GPU = GpuReading(
    uuid="a", name=None, utilization=None, sm_clock_mhz=FLAT, memory_clock_mhz=None, power_watts=None,
    temperature_celsius=None, throttle_reasons={"sw_power_cap": 1.0}, foreign_processes=0, energy_joules=None,
)  # fmt: skip


def reading(of_host: dict[str, Any], *of_gpus: dict[str, Any]) -> NodeReading:
    """A clean node's, with these changes."""
    gpus = [replace(CLEAN_GPU, **changes) for changes in of_gpus]
    return NodeReading(1.0, 16, 0.01, replace(CLEAN_HOST, **of_host), gpus)


@pytest.mark.parametrize(
    ("of_host", "of_gpu", "reasons"),
    [
        ({}, {}, []),
        ({"foreign_cores": 0.56}, {}, []),  # 5 % of 8 is 0.4, Ray may take 0.15, and the reading is exact to 0.02
        ({"foreign_cores": 0.58}, {}, ["foreign CPU use"]),
        ({"stolen_cores": 0.5}, {}, ["CPU time stolen by the hypervisor"]),
        ({"throttled_share": 0.02}, {}, ["CPU limit of the container"]),
        ({"frequency_mhz": Levels(2600.0, 2800.0, 3000.0, [3000.0] * 4 + [2600.0] * 4)}, {}, ["CPU clock drop"]),
        ({"frequency_mhz": Levels(2600.0, 2800.0, 3000.0, [3000.0, 2600.0])}, {}, []),  # too few to say
        ({}, {"throttle_reasons": {"hw_thermal_slowdown": 0.1}}, ["GPU throttled: hw_thermal_slowdown"]),
        ({}, {"foreign_processes": 1}, ["foreign process on the GPU"]),
        ({}, {"sm_clock_mhz": FALLING}, ["GPU clock drop"]),
        ({}, {"throttle_reasons": None, "foreign_processes": None, "sm_clock_mhz": None}, []),
        ({"foreign_cores": None}, {}, None),  # not known is not clean
        ({"foreign_cores": None}, {"foreign_processes": 1}, ["foreign process on the GPU"]),
    ],
)
def test_each_limit(of_host: dict[str, Any], of_gpu: dict[str, Any], reasons: list[str] | None) -> None:
    assert contamination([reading(of_host, of_gpu)]) == reasons


def test_one_node_is_enough_and_no_reading_is_not_known() -> None:
    clean, busy = (reading({"foreign_cores": cores}) for cores in (0.1, 3.0))
    assert contamination([clean, busy, busy]) == ["foreign CPU use"]
    assert contamination([]) is None
