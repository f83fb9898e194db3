"""Starting a module of ours in several processes, as torchrun does."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT, command_environment


def torchrun(workers: int, module: str, *arguments: str, timeout: float = 900) -> str:
    """Run `module` in `workers` processes over gloo and return what they printed. Raises AssertionError on failure."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers),
         "-m", module, *arguments],
        cwd=ROOT, env=command_environment(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu"),
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout
