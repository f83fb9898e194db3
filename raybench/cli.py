"""The command line's common ground: `key=value` tokens, flags, `--help`, one-line errors, exit codes.

Exit codes: 0 done, 1 something could not be measured, what was checked does not hold or the disk is full, 2 bad input,
130 stopped by the user (143 by SIGTERM, 129 by SIGHUP); docs/running.md tells them to users.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from raybench.errors import Interrupted, NothingMeasured, UserError

_KEY = re.compile(r"[A-Za-z_][\w.\-]*")
_LONGEST_MESSAGE = 1500  # characters; what is longer quotes an input that no person wrote
_GROUPS = {
    "before": {
        "doctor": "is this machine fit for sweeps, and if not, what to do",
        "plan": "what a sweep would run, how long, what it could detect",
        "calibrate": "how finely this machine lets a sweep see",
    },
    "measure": {
        "sweep": "run a space: every setting with and without DeepSpeed",
    },
    "read": {
        "analysis": "from a ledger to speedups and verdicts",
        "report": "an HTML page, figures and a summary from a ledger",
        "compare": "two sweeps: what got better, what got worse",
        "predict": "the speedup to expect of a setting not measured yet",
    },
    "keep": {
        "sync": "bring MLflow up to date with a ledger",
        "verify": "check a ledger and its report from the raw rows up",
        "completion": "the script with which a shell completes `raybench`",
    },
}
COMMANDS = {name: meaning for group in _GROUPS.values() for name, meaning in group.items()}


@dataclass(frozen=True)
class Arguments:
    """A command line taken apart: `key=value` pairs in their order, flags without dashes, positionals."""

    values: dict[str, str]
    flags: frozenset[str]
    positionals: tuple[str, ...]


class HelpShown(Exception):
    """`--help` was asked for and printed."""


def suggest(word: str, known: Iterable[str], *, most: int = 12) -> str:
    """What would be right instead of `word`: the closest known words, or the first of them."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = ", ".join(names[:most])
    return f"known: {shown}" + (f" ... ({len(names)} in all)" if len(names) > most else "")


def parse_arguments(
    argv: list[str],
    *,
    usage: str,
    flags: Iterable[str] = (),
    positionals: tuple[int, int] = (0, 0),
) -> Arguments:
    """Take `argv` apart. Raises UserError for what does not fit, HelpShown after printing `usage`."""
    known_flags = frozenset(flags)
    if "--help" in argv or "-h" in argv:
        print(usage.strip())
        raise HelpShown
    values: dict[str, str] = {}
    found: set[str] = set()
    plain: list[str] = []
    for token in argv:
        key, equals, value = token.partition("=")
        if token.startswith("-"):
            name = token.lstrip("-")
            if name not in known_flags:
                options = [f"--{flag}" for flag in sorted(known_flags | {"help"})]
                raise UserError(f"unknown option {token}; {suggest(token, options)}")
            found.add(name)
        elif equals and _KEY.fullmatch(key):
            if key in values:
                raise UserError(f"{key}= is given twice: {key}={values[key]} and {token}; keep one")
            values[key] = value
        elif len(plain) < positionals[1] and token and key:
            plain.append(token)
        else:
            raise UserError(f"{token!r} is no key=value and no option of this command; --help shows what is")
    if len(plain) < positionals[0]:
        raise UserError(f"something is missing: {usage.strip().splitlines()[0]}")
    return Arguments(values, frozenset(found), tuple(plain))


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's `main` on the process's arguments and exit with its code; errors become one line."""
    sys.exit(_guarded(main, sys.argv[1:]))


def _guarded(main: Callable[[list[str]], int], argv: list[str]) -> int:
    try:
        return main(argv)
    except HelpShown:
        return 0
    except UserError as error:
        print(f"raybench: {one_line(str(error))}", file=sys.stderr)
        return 2
    except NothingMeasured as error:
        print(f"raybench: {one_line(str(error))}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"raybench: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("raybench: stopped; what was measured is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"raybench: {one_line(str(error.strerror) + where)}; make room there, and start again", file=sys.stderr)
        return 1


def one_line(text: str) -> str:
    """`text` without line breaks or control characters, so that a message stays one line."""
    folded = " ".join(text.split())
    if len(folded) > _LONGEST_MESSAGE:
        folded = f"{folded[: _LONGEST_MESSAGE - 300]} ... {folded[-300:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in folded)


def _usage() -> str:
    lines = []
    for group, commands in _GROUPS.items():
        for number, (name, meaning) in enumerate(commands.items()):
            lines.append(f"  {'' if number else group:<9}{name:<12}{meaning}")
    return "\n".join([_HEAD, *lines, _TAIL])


_HEAD = """
usage: raybench COMMAND [key=value ...] [--option ...]

Does DeepSpeed help my model on my machines, by how much, and am I sure?
""".lstrip()
_TAIL = """
raybench COMMAND --help   its manual page, with examples; raybench --version
python -m raybench.COMMAND is the same as raybench COMMAND

examples:
  raybench plan space=quickstart
  raybench sweep space=cnns size=small
  raybench analysis mlruns/ledger/quickstart/*"""


def main(argv: list[str]) -> int:
    """`raybench COMMAND ...`: the same as `python -m raybench.COMMAND ...`."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("--help", "-h"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from raybench import __version__

        print(f"raybench {__version__}")
        return 0
    if argv[0] == "complete":  # asked by the script of `raybench completion` at each press of the key
        from raybench.completion import complete

        sys.stdout.writelines(f"{word}\n" for word in complete(" ".join(argv[1:])))
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}; {suggest(argv[0], COMMANDS)}")
    module = f"raybench.{argv[0]}"
    if Path(__file__).with_name(argv[0]).is_dir():
        module += ".__main__"  # as `python -m` runs a package
    command: Callable[[list[str]], int] = importlib.import_module(module).main
    return command(argv[1:])


def console() -> NoReturn:
    """Entry point of the console command `raybench`."""
    run_command(main)
