"""`raybench COMMAND ...`, and `python -m raybench COMMAND ...`: finds the module of a command and runs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from raybench.cli import parse_arguments, run_command
from raybench.errors import UserError
from raybench.manuals import COMMANDS, GROUPS
from raybench.text import suggest

_HEAD = """
usage: raybench COMMAND [key=value ...] [--option ...]
Does DeepSpeed help my model on my machines, by how much, and am I sure?
""".lstrip()
_TAIL = """
raybench COMMAND --help   its manual page, with examples; raybench --version
python -m raybench.COMMAND is the same; example: raybench sweep space=quickstart"""


def main(argv: list[str]) -> int:
    """`raybench COMMAND ...`: the same as `python -m raybench.COMMAND ...`."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("--help", "-h"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from raybench.version import __version__

        print(f"raybench {__version__}")
        return 0
    if argv[0] == "complete":  # called by the script of `raybench completion` at each press of the key
        complete = importlib.import_module("raybench.completion").complete
        sys.stdout.writelines(f"{word}\n" for word in complete(" ".join(argv[1:])))
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}; {suggest(argv[0], COMMANDS)}")
    if {"-h", "--help"} & set(argv[1:]):
        parse_arguments(argv[0], argv[1:])
    module = f"raybench.{argv[0]}"
    if Path(__file__).with_name(argv[0]).is_dir():
        module += ".__main__"  # as `python -m` runs a package
    command: Callable[[list[str]], int] = importlib.import_module(module).main
    return command(argv[1:])


def _usage() -> str:
    lines = []
    for group, names in GROUPS.items():
        for number, name in enumerate(names):
            lines.append(f"  {'' if number else group:<9}{name:<12}{COMMANDS[name]}")
    return "\n".join([_HEAD, *lines, _TAIL])


def console() -> NoReturn:
    """Entry point of the console command `raybench`."""
    run_command(main)


if __name__ == "__main__":
    console()
