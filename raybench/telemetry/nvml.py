"""NVIDIA's management library, as far as raybench asks it: a few readings of the trial's own GPUs.

Every reading is None where this GPU, driver or user cannot have it, and named once in `missing`; nothing is guessed in
its place. `library` is the module of nvidia-ml-py, whose functions raise NVMLError.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

_NO_LIBRARY = "GPU telemetry"
_P2P_READ = 0  # NVML_P2P_CAPS_INDEX_READ, which nvidia-ml-py 13 has as a tuple
# Bits of the reasons for which a GPU does not run at its full clock, by nvidia-ml-py's names.
_THROTTLE_BITS = {
    "sw_power_cap": "nvmlClocksThrottleReasonSwPowerCap",
    "hw_slowdown": "nvmlClocksThrottleReasonHwSlowdown",
    "sync_boost": "nvmlClocksThrottleReasonSyncBoost",
    "sw_thermal_slowdown": "nvmlClocksThrottleReasonSwThermalSlowdown",
    "hw_thermal_slowdown": "nvmlClocksThrottleReasonHwThermalSlowdown",
    "hw_power_brake": "nvmlClocksThrottleReasonHwPowerBrakeSlowdown",
    "display_clock": "nvmlClocksThrottleReasonDisplayClockSetting",
}


@dataclass(frozen=True)
class GpuSample:
    """One GPU at one moment; None where it does not say."""

    utilization: float | None  # percent of the library's last sampling period in which a kernel ran
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_watts: float | None
    temperature_celsius: float | None
    throttle_reasons: tuple[str, ...] | None


class Gpu:
    """One GPU of the trial, found by the UUID that CUDA gives it."""

    def __init__(self, library: Any, uuid: str, missing: list[str]) -> None:
        self.uuid = uuid
        self._nvml = library
        self._missing = missing
        self._refused: set[str] = set()
        self._handle = _handle(library, uuid)
        self.name = self._ask("name", lambda: str(library.nvmlDeviceGetName(self._handle)))

    def sample(self) -> GpuSample:
        """The readings of now."""
        nvml, gpu, ask = self._nvml, self._handle, self._ask
        return GpuSample(
            ask("GPU utilization", lambda: float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)),
            ask("GPU clock", lambda: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
            ask("GPU memory clock", lambda: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM))),
            ask("GPU power", lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3),
            ask("GPU temperature", lambda: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))),
            ask("GPU throttle reasons", self._throttle_reasons),
        )

    def energy_joules(self) -> float | None:
        """The GPU's own counter since its driver was loaded; GPUs before Volta have none."""
        joules: float | None = self._ask(
            "GPU energy", lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
        )
        return joules

    def foreign_processes(self, own: Collection[int]) -> int | None:
        """Compute processes on this GPU that are not the trial's.

        In a container the library names processes by the host's numbers, among which ours are not found; then all
        but one are foreign, because a trial has one process a GPU.
        """

        def count() -> int:
            running = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
            return len(running - set(own)) if running & set(own) else max(0, len(running) - 1)

        number: int | None = self._ask("GPU processes", count)
        return number

    def _throttle_reasons(self) -> tuple[str, ...]:
        bits = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        return tuple(reason for reason, name in _THROTTLE_BITS.items() if bits & getattr(self._nvml, name))

    def _ask(self, what: str, read: Callable[[], Any]) -> Any:
        if what in self._refused:
            return None
        try:
            return read()
        except self._nvml.NVMLError as error:
            self._refused.add(what)
            name_once(self._missing, f"{what} ({_words(error)})")
            return None


def open_library(missing: list[str]) -> Any | None:
    """nvidia-ml-py's module, initialized; None where the driver's library is not there or refuses."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        name_once(missing, f"{_NO_LIBRARY} ({_words(error)})")
        return None
    return pynvml


def open_gpus(uuids: Sequence[str], library: Any | None, missing: list[str]) -> list[Gpu]:
    """The GPUs of these UUIDs that the library knows."""
    found = []
    for uuid in uuids if library is not None else ():
        assert library is not None
        try:
            found.append(Gpu(library, uuid, missing))
        except library.NVMLError as error:
            name_once(missing, f"{_NO_LIBRARY} of {uuid} ({_words(error)})")
    return found


def name_once(missing: list[str], text: str) -> None:
    """Add a missing instrument to the list, where it is not named yet."""
    if text not in missing:
        missing.append(text)


def driver_version(library: Any) -> str | None:
    """The driver's version, as `580.65.06`."""
    try:
        return str(library.nvmlSystemGetDriverVersion())
    except library.NVMLError:
        return None


def links(gpus: Sequence[Gpu], library: Any) -> list[str]:
    """The best connection between each two GPUs, as `0-1 NVLink`, `0-1 PCIe peer to peer` or `0-1 through the host`;
    `0-1 not known` where the driver does not say."""
    found = []
    for first in range(len(gpus)):
        for second in range(first + 1, len(gpus)):
            found.append(f"{first}-{second} {_joined(gpus[first]._handle, gpus[second]._handle, library)}")
    return found


def _joined(first: Any, second: Any, library: Any) -> str:
    def can(capability: int) -> bool:
        return bool(library.nvmlDeviceGetP2PStatus(first, second, capability) == library.NVML_P2P_STATUS_OK)

    try:
        if can(library.NVML_P2P_CAPS_INDEX_NVLINK):
            return "NVLink"
        return "PCIe peer to peer" if can(_P2P_READ) else "through the host"
    except library.NVMLError:
        return "not known"


def _handle(library: Any, uuid: str) -> Any:
    """A MIG slice has a UUID of its own, with another prefix. CUDA gives both without it."""
    try:
        return library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except library.NVMLError as error:
        try:
            return library.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        except library.NVMLError:
            raise error from None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
