"""nvidia-ml-py as a machine with two GPUs would have it: exactly the functions that raybench calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml


class FakeNvml:
    """GPUs `GPU-a` and `GPU-b`; what `refused` names raises, as an unsupported or forbidden call does."""

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_CLOCK_MEM = pynvml.NVML_CLOCK_MEM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVML_P2P_CAPS_INDEX_NVLINK = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    NVML_P2P_STATUS_OK = pynvml.NVML_P2P_STATUS_OK

    def __init__(
        self, refused: tuple[str, ...] = (), pids: tuple[int, ...] = (1,), throttled: int = 0,
        capabilities: tuple[int, ...] = (0, pynvml.NVML_P2P_CAPS_INDEX_NVLINK),  # 0: to read
    ) -> None:  # fmt: skip
        self.refused, self.pids, self.throttled, self.capabilities = refused, pids, throttled, capabilities
        self.calls: list[str] = []
        self.joules = 0
        for name in dir(pynvml):
            if name.startswith("nvmlClocksThrottleReason"):
                setattr(self, name, getattr(pynvml, name))

    def _call(self, name: str, value: Any) -> Any:
        assert callable(getattr(pynvml, name)), f"nvidia-ml-py has no {name}"
        self.calls.append(name)
        if name in self.refused:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in ("GPU-a", "GPU-b", "MIG-c"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self._call("nvmlDeviceGetHandleByUUID", uuid)

    def nvmlDeviceGetName(self, handle: str) -> str:
        return self._call("nvmlDeviceGetName", "NVIDIA Test")

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return self._call("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=93, memory=40))

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self._call("nvmlDeviceGetClockInfo", {self.NVML_CLOCK_SM: 1410, self.NVML_CLOCK_MEM: 1215}[kind])

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._call("nvmlDeviceGetPowerUsage", 250_500)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._call("nvmlDeviceGetTemperature", 61)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self._call("nvmlDeviceGetCurrentClocksThrottleReasons", self.throttled)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.joules += 30
        return self._call("nvmlDeviceGetTotalEnergyConsumption", 1000 * self.joules)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        running = [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self.pids]
        return self._call("nvmlDeviceGetComputeRunningProcesses", running)

    def nvmlDeviceGetP2PStatus(self, first: str, second: str, index: int) -> int:
        assert type(index) is int  # ctypes takes nothing else
        missing = pynvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED
        status = pynvml.NVML_P2P_STATUS_OK if index in self.capabilities else missing
        return self._call("nvmlDeviceGetP2PStatus", status)

    def nvmlSystemGetDriverVersion(self) -> str:
        return self._call("nvmlSystemGetDriverVersion", "580.65.06")
