"""The results that ship are what their rows give, and what is said of them is what was found."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from raybench.analysis import analyse
from raybench.show.words import answer_in_words
from raybench.verify import check_ids, check_report, check_rows, read_all
from tests.analysis.ledgers import paired, write
from tests.conftest import ROOT

LEDGERS = sorted(file.parent for file in (ROOT / "results").glob("*/*/_space.yaml"))
PAGES = ("README.md", "results/README.md", "docs/claims.md")


@pytest.mark.parametrize("folder", LEDGERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_result_that_ships_holds(folder: Path) -> None:
    damaged, rows = read_all(folder)
    assert damaged == []
    assert list(check_rows(rows)) == []
    assert list(check_ids(folder, rows)) == []
    remake = f"python -m raybench.report {folder.relative_to(ROOT)}"
    assert list(check_report(folder, folder / "_report/report.json")) == [], f"made by another version? {remake}"
    answer = " ".join(answer_in_words(analyse([folder])).split())
    assert answer in " ".join((ROOT / "results/README.md").read_text(encoding="utf-8").split())


def test_results_of_a_processor_and_of_a_gpu_ship() -> None:
    found = {str(folder.relative_to(ROOT / "results")) for folder in LEDGERS}
    assert found >= {"zero/small", "paper/small", "paper/h200", "ladder/h200"}


@cache
def estimates() -> frozenset[tuple[str, str, str]]:
    """(speedup, its interval's ends) as pages write them, of all that ships, and against two more baselines."""
    asked: list[tuple[Path, dict[str, Any]]] = [(folder, {}) for folder in LEDGERS]
    asked += [(ROOT / "results/zero/small", {"baseline": name}) for name in ("zero2", "zero3")]
    found: set[tuple[str, str, str]] = set()
    for folder, options in asked:
        analysis = analyse([folder], **options).to_json()
        rows = [(row["speedup"], row) for row in analysis["comparisons"]]
        rows += [(row["geometric_mean"], row) for row in analysis["arms"]]
        for speedup, row in rows:
            if row["verdict_low"] is not None:
                ends = f"{row['verdict_low']:.3f}", f"{row['verdict_high']:.3f}"
                found |= {(f"{speedup:.3f}", *ends), (f"{speedup:.2f}", *ends)}
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES)
def test_intervals_on_the_pages_are_those_of_the_ledgers(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    told = re.findall(r"(\d\.\d{2,3})\D{1,25}?(\d\.\d{3}) to (\d+\.\d{3})", text)
    assert len(told) >= 4
    assert [one for one in told if one not in estimates()] == []


def test_a_published_ratio_of_single_runs_is_undecided_and_of_three_runs_would_not_be(tmp_path: Path) -> None:
    """What docs/claims.md says of speedups that come from one run a side, here 103.57 s against 28.98 s."""
    once = write(tmp_path / "once.parquet", paired([103.57 / 28.98]))
    thrice = write(tmp_path / "thrice.parquet", paired([103.57 / 28.98 * by for by in (0.99, 1.0, 1.01)]))
    (single,) = analyse([once], margin=0.03).comparisons
    (settled,) = analyse([thrice], margin=0.03).comparisons
    assert (single.verdict, settled.verdict) == ("undecided", "helps")
