"""The end of a sweep on a terminal: the answer, last, in at most 25 lines whatever the sweep."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from raybench.analysis import analyse
from raybench.show.answer import build
from raybench.show.document import Answers, Document, Section, Table, columns, row
from raybench.show.terminal import print_document
from raybench.show.words import arm_answers
from tests.analysis.ledgers import leg, paired, write
from tests.analysis.simulation import Truth, simulate_ledger
from tests.show.ledgers import rich_ledger


def printed(ledger: Path, *, width: int = 80, full: bool = False, quiet: bool = False) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width)
    print_document(build(analyse([ledger])), console, full=full, quiet=quiet)
    return text.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("arms", [1, 3, 9, 29])
@pytest.mark.parametrize("settings", [1, 5])
def test_any_sweep_ends_within_a_screen(tmp_path: Path, arms: int, settings: int) -> None:
    speedups = {"ddp": 1.0} | {f"an_arm_with_a_long_name_{i:02d}": 0.6 + 0.05 * i for i in range(arms)}
    truth = Truth(speedups=speedups, num_settings=settings, num_trials=3, num_rounds=1, num_steps=5)
    ledger = simulate_ledger(tmp_path / "legs.parquet", truth)
    lines = printed(ledger)
    assert len(lines) <= 23, lines  # the report's link and a hint follow
    assert max(map(len, lines)) <= 80
    assert sum("an_arm_with_a_long_name_" in line for line in lines[-16:]) >= min(arms, 12)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_word_of_a_table_of_arms_is_cut(tmp_path: Path, width: int) -> None:
    speedups = {"ddp": 1.0} | {f"arm{i:02d}": 0.6 + 0.05 * i for i in range(13)}
    truth = Truth(speedups=speedups, num_settings=4, num_trials=3, num_rounds=1, num_steps=5)
    lines = printed(simulate_ledger(tmp_path / "legs.parquet", truth), width=width)
    assert max(map(len, lines)) <= width
    words = {word.strip(".,;()") for line in lines for word in line.split() if line.startswith("arm")}
    known = {"arm", "verdict", "time", "speedup", "interval", "by", "setting", "helps", "hurts", "undecided", "to", "×"}
    assert {word for word in words if word.isalpha()} <= known


def test_failures_and_odd_names_stay_within_a_screen(tmp_path: Path) -> None:
    ledger = rich_ledger(tmp_path / "friday")
    assert len(printed(ledger, width=60)) <= 23
    lines = printed(ledger)
    assert len(lines) <= 23
    assert any(line.startswith("Failed: 6 of 96 legs") for line in lines)


def test_the_answer_stands_last_and_alone_when_quiet(tmp_path: Path) -> None:
    ledger = write(tmp_path / "legs.parquet", paired([0.31, 0.312, 0.309, 0.311]))
    quiet = printed(ledger, quiet=True, width=200)
    (answer,) = quiet
    assert answer.startswith("zero1 hurts: it takes 3.22 times as long as ddp (speedup 0.31")
    assert printed(ledger, width=200)[-1] == answer
    full = printed(ledger, width=200, full=True)
    assert full[-1] == answer
    assert "How this was obtained" in full


def test_one_sided_failures_are_told_by_their_cause(tmp_path: Path) -> None:
    for kind, told in (("out_of_memory", "is blocked"), ("crashed", "failed")):
        rows = [row for t in range(3) for row in (leg("ddp", t), leg("zero1", t, failure_kind=kind))]
        lines = printed(write(tmp_path / f"{kind}.parquet", rows), width=200, quiet=True)
        assert lines[0].startswith(f"zero1 {told}")


def test_each_answer_has_a_verdict_and_its_numbers(tmp_path: Path) -> None:
    document = build(analyse([rich_ledger(tmp_path / "friday")]))
    (answers,) = [block for block in document.answer if isinstance(block, Answers)]
    assert [one.name for one in answers.answers] == ["compiled", "zero1", "zero3"]
    for one in answers.answers:
        assert one.strip is not None
        assert one.speedup in one.text
        assert one.interval in one.text


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_no_word_of_a_table_is_cut_at_any_width(width: int) -> None:
    names = ("arm", "settings", "quartiles", "these settings", "settings like these", "verdicts")
    cells = ("zero2_overlap", "3", "0.764 to 0.893", "0.760 to 0.859", "0.523 to 1.246", "1 hurts, 2 undecided")
    table = Table("arms", "Over the settings", columns(*names, folds=("verdicts",)), (row(*cells, group="cnn"),))
    text = io.StringIO()
    print_document(
        Document("Arms", (), (Section("arms", "Arms", (table,)),)), Console(file=text, width=width), full=True
    )
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    told = " ".join(lines).replace(";", " ").split()
    assert [word for one in (*names[1:], *cells) for word in one.split() if word not in told] == []


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ({"zero1": 3}, "failed (not for want of memory) in the one setting"),
        ({"zero1": 3, "ddp": 1}, "failed (not for want of memory) in the one setting"),
        ({"ddp": 3}, "has no verdict, because ddp failed (not for want of memory) in the one setting"),
        ({"ddp": 3, "zero1": 1}, "has no verdict, because ddp failed (not for want of memory) in the one setting"),
        ({"ddp": 3, "zero1": 3}, "failed, and so did the baseline"),
    ],
)
def test_who_failed_is_said(failing: dict[str, int], words: str, tmp_path: Path) -> None:
    rows = [
        leg(arm, trial, **({"failure_kind": "error"} if trial < failing.get(arm, 0) else {}))
        for trial in range(3)
        for arm in ("ddp", "zero1")
    ]
    (answer,) = arm_answers(analyse([write(tmp_path / "legs.parquet", rows)]))
    assert answer.sentence.startswith(words)
