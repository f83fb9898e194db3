"""The command line's grammar and its exit codes."""

from __future__ import annotations

import errno
import re

import pytest

from raybench import __main__, cli
from raybench.errors import NothingMeasured, UserError
from raybench.manuals import COMMANDS, Flag, Key, Manual, Positionals
from tests.conftest import Commands

MANUAL = Manual(
    "", "", (), (Key("margin", "0.03", "effects within 3 %", number=True),),
    (Flag("json", ""), Flag("csv", ""), Flag("fail-on", "", "VERDICTS")), Positionals("LEDGER", "", 0, 1),
    takes_space=True, exclusive=(("json", "csv"),),
)  # fmt: skip
BARE = Manual("", "", (), (Key("margin", "0.03", ""),))


def parse(*argv: str, manual: Manual = MANUAL) -> cli.Arguments:
    return cli.parse_manual("x", manual, argv)


def test_tokens_are_told_apart() -> None:
    arguments = parse("a.b=c=d", "--json", "path/x", "e=", "margin=0.1", "--fail-on", "hurts", "--fail-on=lost")
    assert arguments.values == {"a.b": "c=d", "e": "", "margin": "0.1"}
    assert arguments.flags == {"json", "fail-on"}
    assert arguments.positionals == ("path/x",)
    assert arguments.options == {"fail-on": ("hurts", "lost")}
    assert arguments.number("margin") == 0.1


def test_a_key_may_be_written_as_an_option() -> None:
    arguments = parse("--margin", "-0.5", "--setting.model", "lenet", "--repeats=3", "--json")
    assert arguments.values == {"margin": "-0.5", "setting.model": "lenet", "repeats": "3"}
    assert arguments.flags == {"json"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--jsno"], "did you mean --json"),
        (["a", "b"], "'b' is one argument too many"),
        (["margin=x"], "margin=x is not a number"),
        (["--margin"], "expected one argument; see --help"),
        (["--json", "--csv"], "give one of them"),
        (["margin=1", "--margin", "2"], "given twice"),
        (["=3"], "'=3'"),
        (["a=1", "a=2"], "given twice"),
    ],
)
def test_what_does_not_fit_is_refused(argv: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(*argv)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("margn=1", "unknown key margn=; did you mean margin?"),
        ("--margn=1", "unknown option --margn=1; did you mean --margin?"),
        ("word", "'word' is neither key=value nor an option"),
    ],
)
def test_a_command_without_a_space_knows_all_its_keys(token: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        parse(token, manual=BARE)


def test_the_keys_of_a_script_are_checked_and_typed() -> None:
    defaults = {"steps": 100, "pause": 0.5, "folder": ""}
    assert cli.parse_script("", defaults, ["steps=3"]) == {"steps": 3, "pause": 0.5, "folder": ""}
    of_a_space = cli.parse_script(
        "", {"setting.model": "lenet"}, ["setting.model=alexnet", "repeats=3"], takes_space=True
    )
    assert of_a_space == {"setting.model": "alexnet", "repeats": "3"}
    for token, words in [("step=3", "did you mean steps"), ("steps=x", "steps=x is not a whole number")]:
        with pytest.raises(UserError, match=words):
            cli.parse_script("", defaults, [token])


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
    assert commands.run("__main__", "sync", "--help").stdout.startswith("usage: python -m raybench.sync")


def test_the_commands_fit_a_screen_and_help_comes_in_every_usual_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 24
    assert max(map(len, page.splitlines())) <= 80
    assert all(f" {command} " in page for command in COMMANDS)
    assert __main__.main(["help"]) == 0
    assert capsys.readouterr().out == page
    assert (__main__.main([]), capsys.readouterr().out) == (2, page)
    pages = []
    for words in (["help", "sync"], ["sync", "--help"], ["sync", "-h"]):
        with pytest.raises(cli.HelpShown):
            __main__.main(words)
        pages.append(capsys.readouterr().out.partition("usage: ")[2])
    assert pages[0] == pages[1] == pages[2] != ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_manual_page_has_examples_and_fits_its_lines(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cli.HelpShown):
        __main__.main([command, "--help"])
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
        __main__.main(words)


def test_a_light_installation_is_told_what_a_command_needs(capsys: pytest.CaptureFixture[str]) -> None:
    def without(name: str) -> int:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert cli._guarded(lambda argv: without("ray.train"), []) == 2
    told = "raybench: this needs ray, which is not installed: pip install 'raybench[run]'\n"
    assert capsys.readouterr().err == told
    with pytest.raises(ModuleNotFoundError):  # a fault of our own stays one
        cli._guarded(lambda argv: without("raybench.nothing"), [])


def test_a_full_disk_is_one_line_that_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    def write(argv: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/report.html")

    assert cli._guarded(write, []) == 1
    told = capsys.readouterr().err
    assert told == "raybench: No space left on device: /data/report.html; make room there, and start again\n"
