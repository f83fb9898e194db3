"""What the sampler reads and keeps: GPUs by a fake NVML, the host by its real counters, windows by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pynvml
import pytest

from raybench.telemetry.__main__ import Sampler
from raybench.telemetry.host import Host, HostCounters, throttled_seconds
from raybench.telemetry.nvml import driver_version, links, open_gpus, open_library
from raybench.telemetry.window import NodeReading, Sample, Window, summarize
from tests.telemetry.fake_nvml import FakeNvml

SPIN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def windows_of(library: FakeNvml, uuids: list[str], looks: int = 4) -> tuple[NodeReading, list[str]]:
    sampler = Sampler([1], uuids, library, [])
    sampler.begin()
    for _ in range(looks):
        sampler.look()
    sampler.end()
    report = json.loads(json.dumps(sampler.report()))  # as it goes through the pipe
    return NodeReading.from_json(report["reading"]), report["missing"]


def test_only_the_trials_own_gpus_are_read_and_energy_is_the_counters_difference() -> None:
    reading, missing = windows_of(FakeNvml(), ["b"])
    (gpu,) = reading.gpus
    assert gpu.uuid == "b"
    assert gpu.energy_joules == 30.0
    assert (gpu.power_watts.median, gpu.temperature_celsius.max, gpu.utilization.min) == (
        250.5,
        61,
        93,
    )
    assert (gpu.sm_clock_mhz.min, gpu.memory_clock_mhz.max) == (1410, 1215)
    assert gpu.throttle_reasons == {}
    assert gpu.foreign_processes == 0
    assert not any(text.startswith("GPU") for text in missing)


@pytest.mark.parametrize(
    ("function", "field", "name"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_joules", "GPU energy"),
        ("nvmlDeviceGetComputeRunningProcesses", "foreign_processes", "GPU processes"),
        ("nvmlDeviceGetPowerUsage", "power_watts", "GPU power"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttle_reasons", "GPU throttle reasons"),
    ],
)
def test_what_a_gpu_does_not_say_is_null_named_once_and_asked_once(function: str, field: str, name: str) -> None:
    library = FakeNvml(refused=(function,))
    reading, missing = windows_of(library, ["a", "b"])
    assert [getattr(gpu, field) for gpu in reading.gpus] == [None, None]
    assert [text for text in missing if text.startswith("GPU")] == [f"{name} (Not Supported)"]
    assert library.calls.count(function) == 2  # once a GPU


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION])
def test_without_the_library_or_the_permission_the_gpus_are_named_as_missing(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    missing: list[str] = []
    library = open_library(missing)
    assert library is None
    (text,) = missing
    assert text.startswith("GPU telemetry (")
    sampler = Sampler([os.getpid()], ["a"], library, missing)
    sampler.begin()
    sampler.end()
    report = sampler.report()
    assert report["reading"]["gpus"] == []
    assert text in report["missing"]


def test_a_gpu_that_the_library_does_not_know_is_named() -> None:
    missing: list[str] = []
    assert [gpu.uuid for gpu in open_gpus(["x", "a", "c"], FakeNvml(), missing)] == ["a", "c"]  # c is a MIG slice
    assert missing == ["GPU telemetry of x (Not Found)"]


def test_processes_of_others_are_told_from_ours_also_where_pids_are_the_hosts() -> None:
    def foreign(*pids: int) -> int | None:
        (gpu,) = open_gpus(["a"], FakeNvml(pids=pids), [])
        return gpu.foreign_processes({10, 11})

    assert foreign(10) == 0
    assert foreign(10, 999) == 1
    assert foreign(4711) == 0  # ours, by the host's number
    assert foreign(4711, 4712) == 1


def test_throttle_reasons_have_names_and_shares() -> None:
    bits = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonSwPowerCap
    (gpu,) = windows_of(FakeNvml(throttled=bits), ["a"])[0].gpus
    assert gpu.throttle_reasons == {"hw_thermal_slowdown": 1.0, "sw_power_cap": 1.0}


def test_driver_and_links() -> None:
    library = FakeNvml()
    gpus = open_gpus(["a", "b"], library, [])
    assert driver_version(library) == "580.65.06"
    assert links(gpus, library) == ["0-1 NVLink"]
    assert links(gpus, FakeNvml(capabilities=(0,))) == ["0-1 PCIe peer to peer"]
    assert links(gpus, FakeNvml(capabilities=())) == ["0-1 through the host"]
    refusing = FakeNvml(refused=("nvmlDeviceGetP2PStatus", "nvmlSystemGetDriverVersion"))
    assert links(gpus, refusing) == ["0-1 not known"]
    assert driver_version(refusing) is None


def test_foreign_cpu_time_is_what_others_work_and_not_what_we_and_our_children_do() -> None:
    ours, others = (subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(2))
    idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for tree, own_is_busy in ((os.getpid(), True), (ours.pid, True), (idle.pid, False)):
            host, worked = Host([tree]), psutil.Process(ours.pid)
            before, begun = host.read(), worked.cpu_times().user
            while worked.cpu_times().user < begun + 0.2:  # however busy this machine is
                time.sleep(0.02)
            after = host.read()
            assert after.busy - before.busy > 0.15
            assert (after.own - before.own > 0.15) == own_is_busy, tree
    finally:
        for process in (ours, others, idle):
            process.kill()
            process.communicate()


def test_cgroups_of_both_versions_say_how_long_they_held_back() -> None:
    assert throttled_seconds("usage_usec 5\nnr_throttled 3\nthrottled_usec 1500000\n") == 1.5
    assert throttled_seconds("nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000\n") == 2.5
    assert throttled_seconds("usage_usec 5\nuser_usec 4\n") is None


def sample(at: float, busy: float, own: float, throttled: float | None = None) -> Sample:
    return Sample(at, HostCounters(busy, own, stolen=0.0, throttled=throttled), frequency_mhz=None, gpus=())


def test_a_leg_of_two_windows_counts_neither_the_time_nor_the_work_between_them() -> None:
    first = Window([sample(0, 100, 50, 1.0), sample(1, 101.5, 51, 1.0), sample(2, 103, 52, 1.5)], 0.01)
    second = Window([sample(10, 140, 60, 8.0), sample(12, 144, 62, 8.5)], 0.01)
    host = summarize([first, second], cores=2, gpus=[]).host
    assert host.own_cores == 1.0  # 2 + 2 seconds in 4
    assert host.foreign_cores == 0.75  # (3 - 2) + (4 - 2) seconds in 4
    assert host.foreign_cores_trace == [0.5, 0.5, 1.0]
    assert host.throttled_share == 0.25
    assert host.foreign_cores_resolution == 0.005


def test_a_host_that_does_not_count_cpu_time_gives_no_foreign_load() -> None:
    still = Window([sample(0, 0, 50), sample(1, 0, 52)], 0.01)
    host = summarize([still], cores=2, gpus=[]).host
    assert host.foreign_cores is None
    assert host.own_cores == 2.0
