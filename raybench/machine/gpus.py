"""This machine's GPUs according to NVIDIA's library: no torch here."""

from __future__ import annotations


def gpu_bytes() -> int | None:
    """Memory of the smallest GPU here, in bytes; None where there is none, or where it is unknown."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles), default=None)
    except Exception:  # no library, no driver or no permission; each raises its own exception
        return None
