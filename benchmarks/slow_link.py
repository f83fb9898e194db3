"""A slow link, switched on and off: whether the explanation names communication, and only where the link is slow.

    python benchmarks/slow_link.py [rate=1gbit] [model=resnet18] [steps=8] [out=FOLDER]

Runs DDP and ZeRO-3 with two ranks and a profiled leg of each under torchrun, in a network namespace of its own: once
with its loopback as it is, once with a loopback of `rate` (tc's token bucket). Prints the link as measured and the
sentence about ZeRO-3. Needs root, and ip and tc of iproute2. Returns 0 where the cause of ZeRO-3's longer step is
communication over the slow link and something else, or not known, over the fast one; 1 otherwise.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raybench.analysis import analyse
from raybench.cli import parse_script, run_command
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.errors import NothingMeasured, UserError

SPACE = """
setting: {{model: {model}, dataset: synthetic, image_size: 32, batch_size: 8, workers: 2, device: cpu}}
arms: {{ddp: {{engine: torch}}, zero3: {{engine: deepspeed, zero: 3}}}}
protocol: {{warmup_steps: 3, steps: {steps}, rounds: 2}}
repeats: 1
explain: true
"""
CAUSE = "of it in communication"


def main(argv: list[str]) -> int:
    """Print what was found. Returns 0 where the link is named where it is slow, and there alone."""
    defaults = {"rate": "1gbit", "model": "resnet18", "steps": 8, "out": ""}
    values = parse_script(__doc__ or "", defaults, argv)
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        raise UserError("a network namespace is made: this needs root, and ip and tc (apt install iproute2)")
    folder = Path(values["out"] or tempfile.mkdtemp(prefix="slow-link-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    space = folder / "link.yaml"
    space.write_text(SPACE.format(model=values["model"], steps=values["steps"]), encoding="utf-8")
    plan = folder / "plan.json"
    plan.write_text(build_plan(*load_space(str(space))).model_dump_json(), encoding="utf-8")
    named = {name: run(plan, folder / name, rate) for name, rate in (("fast", ""), ("slow", values["rate"]))}
    return 0 if named == {"fast": False, "slow": True} else 1


def run(plan: Path, ledger: Path, rate: str) -> bool:
    """The plan's legs over a loopback of this rate. Returns whether communication is named as the cause."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    words = [*launcher, "--master-port", "29501", "-m", "raybench.training", str(plan), f"ledger={ledger}"]
    with namespace(rate) as inside, (ledger.parent / f"{ledger.name}.txt").open("w") as output:
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        done = subprocess.run([*inside, *words], env=environment, stdout=output, stderr=output, check=False)
    if done.returncode:
        raise NothingMeasured(f"the legs over the {ledger.name} link did not end well; see {output.name}")
    analysis = analyse([ledger])
    (found,) = (one for one in analysis.explanations if one.arm == "zero3")
    print(f"{ledger.name}: {found.sentence}")
    return CAUSE in found.sentence


@contextlib.contextmanager
def namespace(rate: str) -> Iterator[list[str]]:
    """A network namespace whose loopback has this rate; gives the words before a command that runs inside."""
    name, netns = f"raybench-{os.getpid()}", [shutil.which("ip") or "ip", "netns"]
    subprocess.run([*netns, "add", name], check=True)
    inside = [*netns, "exec", name]
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        if rate:
            bucket = ["tbf", "rate", rate, "burst", "1mb", "latency", "200ms"]
            subprocess.run([*inside, "tc", "qdisc", "add", "dev", "lo", "root", *bucket], check=True)
        yield inside
    finally:
        subprocess.run([*netns, "delete", name], check=True)


if __name__ == "__main__":
    run_command(main)
