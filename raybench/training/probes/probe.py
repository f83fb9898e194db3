"""What torch and DeepSpeed report about this machine, as one JSON object on the last line of standard output.

    python -m raybench.training.probes.probe [--build-ops]

A child process of `raybench.doctor`. `--build-ops` first builds DeepSpeed's operators as a sweep's first trial would,
after removing locks of killed builds.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

from raybench.machine.answers import ExtensionsCache, Library


def main(argv: list[str]) -> int:
    """Print the probe. Returns 0: errors are part of the answer."""
    answer: dict[str, Library | ExtensionsCache] = {}  # a ProbeAnswer, filled by name
    if _tried(answer, "torch", _torch):
        _tried(answer, "torchvision", _torchvision)
        _tried(answer, "cache", _cache)
        if "--build-ops" in argv:
            _tried(answer, "built", _build)
        _tried(answer, "deepspeed", _deepspeed)
    print()
    print(json.dumps(answer))
    return 0


def _tried(
    answer: dict[str, Library | ExtensionsCache], name: str, what: Callable[[], Library | ExtensionsCache]
) -> bool:
    try:
        answer[name] = what()
    except BaseException as error:  # an import may even call sys.exit
        traceback.print_exc()
        answer[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    return "error" not in answer[name]


def _torch() -> Library:
    import torch

    available = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if available else []
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}


def _torchvision() -> Library:
    from raybench.training.models.torchvision_ops import declare_missing

    declare_missing()
    import torchvision

    return {"version": torchvision.__version__}


def _cache() -> ExtensionsCache:
    """torch's folder of built extensions, and its build locks: held by a process, or left by a dead one."""
    from raybench.training.engines.deepspeed_ops import extensions_cache, is_held

    cache = extensions_cache()
    locks = {str(lock): is_held(lock) for lock in sorted(cache.glob("*/lock"))}
    return {"folder": str(cache), "locks": locks}


def _build() -> Library:
    import torch

    from raybench.training.engines.deepspeed_ops import build_adam, import_deepspeed
    from raybench.training.ranks import Ranks

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    import_deepspeed(Ranks(0, 1, device, None))
    build_adam(offloaded=True)
    if device.type == "cuda":
        build_adam(offloaded=False)
    return {}


def _deepspeed() -> Library:
    """DeepSpeed's version, and which of raybench's operators are built."""
    import torch

    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    import deepspeed

    from raybench.training.engines.deepspeed_ops import extensions_cache

    names = ["cpu_adam", "fused_adam"] if on_gpu else ["deepspeed_shm_comm", "cpu_adam"]
    cache = extensions_cache()
    return {"version": deepspeed.__version__, "ops": {name: any((cache / name).glob("*.so")) for name in names}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
