"""The results that ship are what their rows give, and what is said of them is what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.analysis import analyse
from raybench.show.words import answer_in_words
from raybench.verify import check_report, check_rows, read_all
from tests.conftest import ROOT

LEDGERS = sorted(file.parent for file in (ROOT / "results").glob("*/*/_space.yaml"))


@pytest.mark.parametrize("folder", LEDGERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_result_that_ships_holds(folder: Path) -> None:
    damaged, rows = read_all(folder)
    assert damaged == []
    assert list(check_rows(rows)) == []
    remake = f"python -m raybench.report {folder.relative_to(ROOT)}"
    assert list(check_report(folder, folder / "_report/report.json")) == [], f"made by another version? {remake}"
    answer = " ".join(answer_in_words(analyse([folder])).split())
    assert answer in " ".join((ROOT / "results/README.md").read_text(encoding="utf-8").split())


def test_there_are_results() -> None:
    assert LEDGERS
