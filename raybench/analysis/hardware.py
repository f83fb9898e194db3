"""What hardware a leg ran on, as one line of text from its `environment`: part of the key of a comparison.

Two legs are on the same hardware when this line is equal; names of nodes, serial numbers, drivers and
versions of software are left out (a fleet of equal machines is one hardware, an upgrade is a caveat).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

# Where an environment says what the machine is; raybench's own name is the first.
_PLACES: Final = (
    "hardware",
    "accelerator",
    "accelerators",
    "gpu",
    "gpus",
    "gpu_name",
    "gpu_names",
    "gpu_count",
    "num_gpus",
    "device",
    "device_name",
    "cpu",
    "cpu_model",
    "cpu_cores",
    "cpu_count",
    "cpus",
    "cores",
)
# Within them: what tells one machine from its twin.
_IDENTITIES: Final = (
    "uuid", "serial", "bus", "node", "host", "driver", "index",
    # ... and readings, which change from leg to leg.
    "temperature", "clock", "mhz", "freq", "load", "percent", "util", "used", "free", "available", "power",
)  # fmt: skip


def hardware_of(environment: Mapping[str, Any]) -> str:
    """One line such as `8 x NVIDIA H100, AMD EPYC 9654`; empty where the environment does not say."""
    places = ("hardware",) if environment.get("hardware") else _PLACES
    words = [word for place in places if place in environment for word in _words(environment[place], place)]
    return ", ".join(dict.fromkeys(words))


def _words(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            if not any(identity in str(key).lower() for identity in _IDENTITIES):
                yield from _words(value[key], str(key))
    elif isinstance(value, list):
        texts = [", ".join(_words(item, name)) for item in value]
        for text in dict.fromkeys(texts):
            yield text if texts.count(text) == 1 else f"{texts.count(text)} x {text}"
    elif isinstance(value, bool) or value in (None, ""):
        return
    elif isinstance(value, float):
        return  # a reading, such as a frequency: not what the machine is
    elif isinstance(value, int):
        yield f"{value} {name.replace('_', ' ').removesuffix(' count').removeprefix('num ')}"
    else:
        yield str(value)


def versions_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions of software that the environment states, by name (raybench's own place: `packages`)."""
    found: dict[str, str] = {}
    for place in ("packages", "versions"):
        if isinstance(environment.get(place), Mapping):
            found |= {str(name): str(version) for name, version in environment[place].items() if version is not None}
    found |= {name: str(environment[name])[:12] for name in _LIBRARIES if isinstance(environment.get(name), str | int)}
    return found


_LIBRARIES: Final = (
    "torch",
    "deepspeed",
    "ray",
    "python",
    "cuda",
    "cudnn",
    "driver",
    "nccl",
    "torchvision",
    "timm",
    "raybench",
    "git_commit",
    "torch_version",
    "deepspeed_version",
    "ray_version",
    "python_version",
    "cuda_version",
    "driver_version",
)
