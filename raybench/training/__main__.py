"""The same legs without Ray: `torchrun --nproc-per-node N -m raybench.training PLAN.json [ledger=FOLDER]`.

PLAN is the output of `python -m raybench.plan space=... --json`. Trials that need another number of workers than
torchrun has processes are skipped and named. Every leg becomes a row in the ledger; legs already there are not run
again. All trials run in one set of processes, one block, until a leg ends it: that leg gets its row, and a new set runs
the rest. Trials of a setting that share processes are one sample, so run each repeat under its own torchrun
(repeat=K).
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
