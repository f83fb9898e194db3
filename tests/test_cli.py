"""The command line's grammar and its exit codes."""

from __future__ import annotations

import pytest

from raybench import cli
from raybench.errors import NothingMeasured, UserError
from tests.conftest import Commands


def parse(*argv: str) -> cli.Arguments:
    return cli.parse_arguments(list(argv), usage="usage: x LEDGER", flags={"json"}, positionals=(0, 1))


def test_tokens_are_told_apart() -> None:
    arguments = parse("a.b=c=d", "--json", "path/x", "e=")
    assert arguments.values == {"a.b": "c=d", "e": ""}
    assert arguments.flags == {"json"}
    assert arguments.positionals == ("path/x",)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--jsno"], "did you mean --json"),
        (["a", "b"], "'b' is no key=value"),
        (["=3"], "'=3'"),
        (["a=1", "a=2"], "given twice"),
    ],
)
def test_what_does_not_fit_is_refused(argv: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(*argv)


@pytest.mark.parametrize(("error", "code"), [(UserError("bad\ninput"), 2), (NothingMeasured("none"), 1), (None, 0)])
def test_errors_become_one_line_and_a_code(
    error: Exception | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str]) -> int:
        if error is not None:
            raise error
        return 0

    with pytest.raises(SystemExit) as ended:
        cli.run_command(main)
    assert ended.value.code == code
    assert capsys.readouterr().err == (f"raybench: {' '.join(str(error).split())}\n" if error else "")


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert cli.one_line("a\x1b[31m\nb") == "a\\x1b[31m b"


def test_the_console_command_is_the_module(commands: Commands) -> None:
    shown = commands.run("__main__", "plan", "space=quickstart")
    assert shown.returncode == 0
    assert shown.stdout == commands.run("plan", "space=quickstart").stdout
    unknown = commands.run("__main__", "swep")
    assert (unknown.returncode, unknown.stderr) == (2, "raybench: unknown command 'swep'; did you mean sweep?\n")
    for command in cli.COMMANDS:
        assert commands.run("__main__", command, "--help").stdout.startswith("usage: python -m raybench")
