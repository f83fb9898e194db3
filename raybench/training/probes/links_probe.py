"""The rates of this machine's links and of its host's Adam steps, as one JSON object on the last line printed.

    python -m raybench.training.probes.links_probe

A child process of `raybench.doctor --links`. One process for each GPU over NCCL, else two over gloo.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist

from raybench.machine.answers import AdamRate
from raybench.training.command import end_with_parent
from raybench.training.engines.deepspeed_ops import build_adam, extensions_cache
from raybench.training.node.link_rates import measured_links
from raybench.training.node.machine import gpu_links
from raybench.training.ranks import Ranks

_ELEMENTS: Final = 10_000_000  # of the parameter that Adam steps: larger than caches
_STEPS: Final = 5  # the fastest counts


def main() -> int:
    """Print the answer. Returns 0; an error ends the process, and the parent reports its last output."""
    world = torch.cuda.device_count() if torch.cuda.is_available() else 2
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_rank, args=(rank, world, folder), daemon=True) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if failed := [process.exitcode for process in processes if process.exitcode]:
            sys.exit(f"a process that measures links ended with {failed[0]}")
        answer = json.loads((Path(folder) / "links.json").read_text())
    gpus = [
        str(torch.cuda.get_device_properties(gpu).uuid)
        for gpu in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    print(json.dumps({**answer, "gpu_links": gpu_links(gpus), "adam": _adam()}))
    return 0


def _rank(rank: int, world: int, folder: str) -> None:
    end_with_parent()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if on_gpu else "gloo"
    ranks = Ranks(0, 1, device, None)
    if world > 1:
        dist.init_process_group(
            backend, init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60),
            device_id=device if on_gpu else None,
        )  # fmt: skip
        ranks = Ranks.joined(device, 60)
    links = measured_links(ranks)
    if rank == 0:
        told = None if links is None else asdict(links)
        (Path(folder) / "links.json").write_text(json.dumps({"world": world, "backend": backend, "links": told}))
    if world > 1:
        dist.destroy_process_group()


def _adam() -> AdamRate:
    """Parameters per second that DeepSpeed's CPUAdam steps, all threads together; `missing` where it is not built."""
    if not any((extensions_cache() / "cpu_adam").glob("*.so")):
        return {"missing": "DeepSpeed's cpu_adam is not built yet"}
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    build_adam(offloaded=True)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    parameter = torch.nn.Parameter(torch.zeros(_ELEMENTS))
    parameter.grad = torch.ones(_ELEMENTS)
    optimizer = DeepSpeedCPUAdam([parameter])
    optimizer.step()  # creates its states
    seconds = []
    for _ in range(_STEPS):
        begun = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return {"parameters_per_second": _ELEMENTS / min(seconds), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    sys.exit(main())
