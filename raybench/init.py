"""Write a commented space as a starting point: from keys, or from a few questions in a terminal.

python -m raybench.init mine.yaml [model=resnet18] [arms=zero1,zero3] [key=value ...]
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("init")

import os
import sys
from pathlib import Path

from raybench.cli import parse_arguments, run_command
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.text import suggest

# Asked in this order; the defaults run on a laptop.
QUESTIONS = {
    "model": ("lenet", "model: a timm or torchvision name, hf/TYPE, or module:function of a file here"),
    "dataset": ("digits", "dataset: `raybench list datasets` names them; digits ships inside scikit-learn"),
    "batch_size": ("32", "global batch sizes, with commas between them"),
    "workers": ("2", "workers: the processes of a trial, one a GPU"),
    "precision": ("fp32", "precision: fp32, tf32, bf16 or fp16"),
    "arms": ("zero1,zero3", "what to compare with plain torch: zero0, zero1, zero2, zero3, offload, fsdp"),
}
ARMS = {
    "zero0": "{engine: deepspeed, zero: 0}",
    "zero1": "{engine: deepspeed, zero: 1}                # optimizer state sharded over the workers",
    "zero2": "{engine: deepspeed, zero: 2}                # gradients too",
    "zero3": "{engine: deepspeed, zero: 3}                # parameters too",
    "offload": "{engine: deepspeed, zero: 2, offload: optimizer}   # optimizer state and step on the CPU",
    "fsdp": "{engine: fsdp}                             # FSDP2, PyTorch's own sharding",
}
TEMPLATE = """\
# What it answers: does DeepSpeed help {model} on {dataset}?
# See what it would run:  python -m raybench.plan space={path}
# Run it:                 python -m raybench.sweep space={path}
question: {{margin: 0.03, alpha: 0.05}}     # effects within 3 % count as none
setting:                                  # lists are axes; their product is the settings
  model: {model}
  dataset: {dataset}
  batch_size: {batch_size}                # global: over all workers
  workers: {workers}                      # processes of a trial, one a GPU
  precision: {precision}
  optimizer: {{name: adamw, lr: 1e-3, weight_decay: 0.01}}
arms:                                     # the first is the baseline
  torch: {{engine: torch}}
{arms}
protocol: {{kind: throughput, warmup_steps: 10, steps: 50, rounds: 2}}
repeats: 4                                # trials of each setting: the sample of the statistics
"""


def main(argv: list[str]) -> int:
    """Write a space. Returns 0; raises UserError for an invalid value, and then writes nothing."""
    arguments = parse_arguments("init", argv)
    path = Path(arguments.positionals[0])
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: a space's file ends in .yaml")
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    if os.path.exists(path) and "force" not in arguments.flags:
        raise UserError(f"{path} is there already; --force writes over it")
    asking = not arguments.values and sys.stdin.isatty() and sys.stdout.isatty()
    answers = {key: arguments.values.get(key, default) for key, (default, _) in QUESTIONS.items()}
    text = space_text(path, _ask(answers) if asking else answers)
    aside = path.with_name(f".{path.stem}-{os.getpid()}.yaml")
    try:
        aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        plan = build_plan(*load_space(str(aside)))
        aside.replace(path)
    except UserError as error:
        raise UserError(str(error).replace(str(aside), str(path))) from None
    finally:
        aside.unlink(missing_ok=True)
    print(f"{path}: {len(plan.trials)} trials, {len(plan.legs())} legs")
    print(f"python -m raybench.plan space={path}    shows what it would run")
    return 0


def _ask(defaults: dict[str, str]) -> dict[str, str]:
    try:
        return {
            key: input(f"{QUESTIONS[key][1]} [{default}]: ").strip() or default for key, default in defaults.items()
        }
    except EOFError:  # Ctrl-D
        raise UserError("no answer; nothing was written") from None


def space_text(path: Path, answers: dict[str, str]) -> str:
    """The file's text. Raises UserError for an arm that is not known."""
    names = [name.strip() for name in answers["arms"].split(",")]
    for name in names:
        if name not in ARMS:
            raise UserError(f"arms={name}: {suggest(name, ARMS)}")
    values = {key: f"[{value}]" if "," in value else value for key, value in answers.items()}
    arms = "\n".join(f"  {name}: {ARMS[name]}" for name in dict.fromkeys(names))
    lines = TEMPLATE.format(**{**values, "arms": arms}, path=path).splitlines()
    return "\n".join(_aligned(line) for line in lines) + "\n"


def _aligned(line: str) -> str:
    """The line with its comment, if any, aligned in a column."""
    code, mark, comment = line.partition("  #")
    return f"{code.rstrip():<44}# {comment.strip()}" if mark and code.strip() else line


if __name__ == "__main__":
    run_command(main)
