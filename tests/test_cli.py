"""The command line's grammar and its exit codes."""

from __future__ import annotations

import errno
import re

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


def test_the_commands_fit_a_screen_and_help_comes_in_every_usual_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 24
    assert max(map(len, page.splitlines())) <= 80
    assert all(f" {command} " in page for command in cli.COMMANDS)
    assert cli.main(["help"]) == 0
    assert capsys.readouterr().out == page
    assert (cli.main([]), capsys.readouterr().out) == (2, page)
    pages = []
    for words in (["help", "sync"], ["sync", "--help"], ["sync", "-h"]):
        with pytest.raises(cli.HelpShown):
            cli.main(words)
        pages.append(capsys.readouterr().out.partition("usage: ")[2])
    assert pages[0] == pages[1] == pages[2] != ""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_manual_page_has_examples_and_fits_its_lines(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cli.HelpShown):
        cli.main([command, "--help"])
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 120
    assert re.search(r"\bexamples?:|~/.bashrc", page)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["swep"], "unknown command 'swep'; did you mean sweep?"),
        (["plan", "--jsno"], "unknown option --jsno; did you mean --json?"),
        (["plan", "space=quikstart"], "did you mean quickstart?"),
        (["plan", "space=quickstart", "setting.modle=lenet"], "did you mean model"),
        (["plan", "space=quickstart", "repeat=3"], "did you mean repeats?"),
        (["sweep", "--quiet", "--verbose", "space=quickstart"], "give one of them"),
        (["doctor", "result=x"], "did you mean results?"),
    ],
)
def test_what_is_mistyped_gets_a_suggestion(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        cli.main(words)


def test_a_full_disk_is_one_line_that_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    def write(argv: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/report.html")

    assert cli._guarded(write, []) == 1
    told = capsys.readouterr().err
    assert told == "raybench: No space left on device: /data/report.html; make room there, and start again\n"
