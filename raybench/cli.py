"""What all commands share: `key=value` tokens, flags, `--help`, one-line errors, exit codes.

Exit codes: 0 done; 1 incomplete: something could not be measured, a check failed, or the disk is full; 2 bad input; 130
stopped by the user (143 by SIGTERM, 129 by SIGHUP). docs/running.md explains them to users.
"""

from __future__ import annotations

import argparse
import errno
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from raybench.errors import Interrupted, NothingMeasured, UserError
from raybench.manuals import MANUALS, Key, Manual
from raybench.text import one_line, suggest

_LONGEST_OPTIONS = 60  # characters of a usage line
_KEY = re.compile(r"[A-Za-z_][\w.\-]*")


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    `values` are the `key=value` pairs in order, `options` the flags that take a value.
    """

    values: dict[str, str]
    flags: frozenset[str]
    positionals: tuple[str, ...]
    options: dict[str, tuple[str, ...]]

    def number(self, key: str) -> float | None:
        """The number given as `key=`; None if not given. Raises UserError for anything else."""
        if key not in self.values:
            return None
        try:
            return float(self.values[key])
        except ValueError:
            raise UserError(f"{key}={self.values[key]} is not a number") from None

    def price(self) -> float | None:
        """A node's cost per hour from `price=`; None if not given. Raises UserError."""
        price = self.number("price")
        if price is not None and not 0 <= price < 1e9:
            raise UserError(
                f"price={self.values['price']}: a price is a number of 0 or more, what a node costs an hour, "
                "as in price=3.06"
            )
        return price

    def names(self, key: str) -> tuple[str, ...]:
        """The names given as `key=A,B,C`; empty if not given."""
        return tuple(self.values[key].split(",")) if key in self.values else ()


class HelpShown(Exception):
    """`--help` was requested and printed."""


class _Parser(argparse.ArgumentParser):
    """argparse with raybench's errors, and an exit that a caller can catch."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows a key as it is written, `name=value`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=118)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _KeyAction):
            return f"{action.dest}={action.metavar}"
        return super()._format_action_invocation(action)


class _KeyAction(argparse.Action):
    """Stores `key=value` under its key; rejects a duplicate key."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        _keep(namespace.values, self.dest, values)


def _keep(values: dict[str, str], key: str, value: str) -> None:
    if key in values:
        raise UserError(f"{key}= is given twice: {key}={values[key]} and {key}={value}; keep one")
    values[key] = value


def build_parser(program: str, manual: Manual) -> argparse.ArgumentParser:
    """A command's parser; `program` is how it is called, as in `python -m raybench.plan`."""
    examples = "\n".join(["examples:", *(f"  {program} {example}".rstrip() for example in manual.examples)])
    parser = _Parser(
        program,
        usage=" ".join([program, *_usage_of(manual)]),
        description=manual.description.strip(),
        epilog="\n\n".join(part for part in (manual.notes.strip(), examples if manual.examples else "") if part),
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    if manual.positionals is not None:
        group = parser.add_argument_group("arguments")
        group.add_argument("positionals", metavar=manual.positionals.metavar, help=manual.positionals.help, nargs="*")
    group = parser.add_argument_group("keys, as name=value or --name value")
    for key in manual.keys:
        group.add_argument(
            f"--{key.name}", dest=key.name, metavar=key.example, help=key.help.replace("%", "%%"), action=_KeyAction
        )
    if manual.takes_space and "setting.model" not in {key.name for key in manual.keys}:
        group.add_argument(
            "--setting.model", dest="setting.model", metavar="lenet", action=_KeyAction,
            help="any other key=value overrides that field of the space, as in setting.batch_size=[64,128]",
        )  # fmt: skip
    group = parser.add_argument_group("options")
    group.add_argument("-h", "--help", action="help", help="show this page")
    for flag in manual.flags:
        kind: dict[str, Any] = {"action": "store_true"}
        if flag.metavar:
            kind = {"action": "append", "metavar": flag.metavar}
        group.add_argument(f"--{flag.name}", dest=f"--{flag.name}", help=flag.help.replace("%", "%%"), **kind)
    return parser


def _usage_of(manual: Manual) -> list[str]:
    """The part of a command's usage line after its name."""
    alone = {name for names in manual.exclusive for name in names}
    words = [manual.positionals.metavar] if manual.positionals else []
    if manual.positionals and manual.positionals.most is None:
        words = [f"{manual.positionals.metavar}..."]
    words += ["space=NAME|PATH"] if any(key.name == "space" for key in manual.keys) else []
    words += ["[key=value ...]"] if manual.keys else []
    flags = [f"--{flag.name} {flag.metavar}".strip() for flag in manual.flags if flag.name not in alone]
    options = [f"[{'|'.join(f'--{name}' for name in names)}]" for names in manual.exclusive]
    options += [f"[{flag}]" for flag in flags]
    return words + (options if len(" ".join(options)) < _LONGEST_OPTIONS else ["[--option ...]"])


def parse_arguments(command: str, argv: Sequence[str]) -> Arguments:
    """Parse a command's `argv`. Raises UserError for errors in it, HelpShown after printing the help."""
    manual = MANUALS[command]
    return parse_manual(f"{manual.launcher or 'python'} -m raybench.{command}", manual, argv)


def parse_script(
    description: str, defaults: Mapping[str, Any], argv: Sequence[str], *, takes_space: bool = False
) -> dict[str, Any]:
    """The values of a script's keys: `defaults`, overridden by `argv` and converted to the default's type (None: text).

    Raises as `parse_arguments` does.
    """
    keys = tuple(Key(name, "..." if value is None else str(value), "") for name, value in defaults.items())
    manual = Manual("", description, (), keys, takes_space=takes_space)
    given = parse_manual(Path(sys.argv[0]).name, manual, argv).values
    return {**defaults, **{key: _as_default(key, text, defaults.get(key)) for key, text in given.items()}}


def _as_default(key: str, text: str, default: Any) -> Any:
    if not isinstance(default, int | float):
        return text
    try:
        return type(default)(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise UserError(f"{key}={text} is not {kind}") from None


def parse_manual(program: str, manual: Manual, argv: Sequence[str]) -> Arguments:
    """Parse the `argv` of any command; raises as `parse_arguments` does."""
    parser = build_parser(program, manual)
    namespace = argparse.Namespace(values={}, positionals=[])
    options, plain = _canonical(manual, argv, namespace.values)
    wrong = [word for word in plain if word[:1] in ("", "=") or manual.positionals is None]
    if wrong:
        raise UserError(f"{wrong[0]!r} is neither key=value nor an option of this command; see --help")
    _, unknown = parser.parse_known_args([*options, *plain], namespace)
    for token in unknown:
        names = [f"--{name}" for name in ("help", *_names(manual))]
        raise UserError(f"unknown option {token}; {suggest(token.partition('=')[0], names)}")
    given = {flag.name: getattr(namespace, f"--{flag.name}") for flag in manual.flags}
    flags = frozenset(name for name, value in given.items() if value)
    for alone in manual.exclusive:
        if len(both := [name for name in alone if name in flags]) > 1:
            raise UserError(f"--{both[0]} and --{both[1]}: give one of them")
    positionals = tuple(namespace.positionals or ())
    _check_count(parser, manual, positionals)
    for key in manual.keys:
        if key.number:
            Arguments(namespace.values, flags, (), {}).number(key.name)
    valued = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return Arguments(namespace.values, flags, positionals, valued)


def _canonical(manual: Manual, argv: Sequence[str], values: dict[str, str]) -> tuple[list[str], list[str]]:
    """The options in argparse's form, `--name=value`, and the other words.

    Fields of a space, given as key=value or --key value, are put directly into `values`.
    """
    known = {key.name for key in manual.keys}
    valued = known | {flag.name for flag in manual.flags if flag.metavar}
    flags = {flag.name for flag in manual.flags} | {"help"}
    tokens, options, plain = list(argv), list[str](), list[str]()
    while tokens:
        token = tokens.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        dashed = token.startswith("--")
        if not dashed and not (equals and _KEY.fullmatch(key)):
            (options if token[:1] == "-" and len(token) > 1 else plain).append(token)
        elif key in known if not dashed else key in valued:
            given = equals + value if equals else f"={tokens.pop(0)}" if tokens else ""
            options.append(f"--{key}{given}")
        elif dashed and key in flags:
            options.append(token)
        elif manual.takes_space and (equals or (tokens and tokens[0][:1] != "-" and "=" not in tokens[0])):
            _keep(values, key, value if equals else tokens.pop(0))
        elif dashed:
            options.append(token)
        else:
            raise UserError(f"unknown key {key}=; " + (suggest(key, known) if known else "this command takes none"))
    return options, plain


def _names(manual: Manual) -> list[str]:
    return [*(flag.name for flag in manual.flags), *(key.name for key in manual.keys)]


def _check_count(parser: argparse.ArgumentParser, manual: Manual, positionals: tuple[str, ...]) -> None:
    wanted = manual.positionals
    if wanted is None:
        return
    if len(positionals) < wanted.least:
        raise UserError(f"{wanted.metavar} is missing; {parser.format_usage().strip()}")
    if wanted.most is not None and len(positionals) > wanted.most:
        raise UserError(f"{positionals[wanted.most]!r} is one argument too many; {parser.format_usage().strip()}")


EXTRAS: Final = {  # of pyproject.toml, with what raybench imports from each; a light installation has none
    "run": {
        "ray",
        "torch",
        "torchvision",
        "deepspeed",
        "mlflow",
        "sqlalchemy",
        "timm",
        "transformers",
        "torchmetrics",
        "grpc",
    },
    "tune": {"optuna"},
    "aws": {"boto3", "botocore"},
}


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's `main` on the process's arguments and exit with its code; errors become one line."""
    _collect_seldom()
    code = _guarded(main, sys.argv[1:])
    gc.freeze()  # otherwise an exit visits all that was imported, again and again: 0.9 s after a sweep
    sys.exit(code)


def begin(command: str) -> None:
    """Print the help and exit, if the arguments ask for it. For the beginning of modules whose imports take longer than
    a reader of the help should wait."""
    _collect_seldom()
    if {"-h", "--help"} & set(sys.argv[1:]):
        run_command(lambda argv: len(parse_arguments(command, argv).flags))  # which raises HelpShown


def _collect_seldom() -> None:
    """Visit new objects for garbage a hundred times less often: a sixth of the time that a command's imports take."""
    gc.set_threshold(100_000, 50, 50)


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
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((name for name, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        install = f"pip install 'raybench[{extra}]'"
        print(f"raybench: this needs {package}, which is not installed: {install}", file=sys.stderr)
        return 2
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
