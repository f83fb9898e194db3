"""The same legs without Ray: `torchrun --nproc-per-node N -m raybench.training PLAN.json [ledger=FOLDER]`.

PLAN is what `python -m raybench.plan space=... --json` prints. Trials whose workers are not as many as
torchrun's processes are passed over and named. Every leg becomes a row in the ledger; legs that it already
holds are not run again. All trials run in one set of processes, one block, until a leg ends them: that leg gets its
row, and another set runs what is left. Trials of a setting that share their processes are one sample, so each repeat
wants a torchrun of its own (repeat=K).
"""

from __future__ import annotations

from raybench.cli import parse_arguments, run_command
from raybench.training.supervisor import supervise
from raybench.training.work import read_work


def main(argv: list[str]) -> int:
    """Run the legs of a plan on disk. Returns 0 when the ledger holds them all."""
    arguments = parse_arguments("training", argv)
    (file,) = arguments.positionals
    words = [file, *(f"{key}={value}" for key, value in arguments.values.items())]
    return supervise(read_work(file, arguments.values), words)


if __name__ == "__main__":
    run_command(main)
