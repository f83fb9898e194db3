"""Profiled legs explain, and never count in a speedup; what is said of them comes from rules over measured parts."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest

from raybench.analysis import analyse
from raybench.analysis.views.explanations import Explanation, _three, shared_out
from raybench.show import sections
from raybench.show.figures.step_parts import parts
from raybench.show.figures.style import drawing
from tests.analysis.ledgers import leg, paired, write

BASE = {"matrix products": 1.0, "other operators": 0.5, "gradient hooks": 0.2, "optimizer": 0.2, "data": 0.1}
LARGER = "A larger batch would make it a smaller share of a step."
CAUSES = {
    "gradient hooks": f"all of it on the host: gradient hooks 1,000. {LARGER}",
    "optimizer": f"all of it on the host: optimizer 1,000. {LARGER}",
    "data": "all of it in the wait for data: data 1,000. More setting.loader_workers, or a larger prefetch_factor, may "
    "shorten it.",
    "communication": "all of it in communication that nothing hides: communication 1,000. Fewer bytes, a faster link, "
    "or more to compute meanwhile would shorten it.",
    "other operators": "all of it in its operators: other operators 1,000. Why the operators take longer is not known "
    "from this; compare the two traces.",
}


def profiled(arm: str, told: dict[str, float], **more: Any) -> dict[str, Any]:
    """A profiled leg whose step is as long as its parts."""
    profile = json.dumps({"parts": told, "trace": "x.json.gz", "missing": [], **more})
    return leg(arm, 0, 9, seconds=sum(told.values()), profile=profile, profiled=True)


def explained(folder: Path, told: dict[str, float], **more: Any) -> Explanation:
    """Of a baseline of BASE and an arm of these parts; the measured legs take as long."""
    rows = paired([sum(BASE.values()) / sum(told.values())] * 3, base=sum(BASE.values()))
    rows += [profiled("ddp", BASE), profiled("zero1", told, **more)]
    _, zero1 = analyse([write(folder / "ledger.parquet", rows)]).explanations
    assert sum(zero1.log_ratio.values()) == pytest.approx(log(sum(BASE.values()) / sum(told.values())))
    return zero1


def test_a_profiled_leg_explains_and_does_not_count(tmp_path: Path) -> None:
    rows = paired([0.5, 0.5, 0.5])
    plain = analyse([write(tmp_path / "a.parquet", rows)])
    assert plain.explanations == ()
    assert sections.explanations_in_words(plain) == []
    assert parts(plain) is None
    failed = leg("zero1", 0, 9, failure_kind="out_of_memory", profiled=True)
    rows += [profiled("ddp", BASE, profiled_step_seconds=2.5), profiled("zero1", BASE), {**failed, "leg_id": "again"}]
    found = analyse([write(tmp_path / "b.parquet", rows)])
    assert found.comparisons == plain.comparisons
    assert (found.num_legs, found.num_failed_legs) == (plain.num_legs, 0)
    ddp, zero1 = found.explanations
    assert (ddp.arm, ddp.step_seconds, ddp.parts, ddp.log_ratio) == ("ddp", 2.0, BASE, {})
    assert ddp.sentence == (
        "ddp spends most on matrix products: 1,000 of 2,000 ms. (Its measured legs take 1,000 ms a "
        "step, the profiled one 2,000: read it with care.)"
    )
    assert zero1.sentence == "zero1: a step is as long as one of ddp, within 5 %; there is nothing to explain."
    told = sections.explanations_in_words(found)
    assert "The profiler itself made steps 25 % longer; that is taken out of the parts" in told
    with drawing():
        plot = parts(found)
    assert plot is not None
    assert len(plot.figure.axes[0].patches) == 2 * len(BASE) + 1  # and the band of the heading
    assert len(found.to_json()["explanations"]) == 2


@pytest.mark.parametrize("cause", CAUSES)
def test_the_sentence_names_the_cause_and_no_other(tmp_path: Path, cause: str) -> None:
    found = explained(tmp_path, {**BASE, cause: BASE.get(cause, 0.0) + 1.0})
    assert found.sentence == f"zero1 adds 1,000 ms to a step of 2,000 ms, {CAUSES[cause]}"
    assert found.log_ratio[cause] == pytest.approx(log(2.0 / 3.0))
    assert all(value == 0 for part, value in found.log_ratio.items() if part != cause)
    without = explained(tmp_path / "off", BASE)
    assert without.sentence.endswith("there is nothing to explain.")


@pytest.mark.parametrize(("rate", "bytes_are_it"), [(1e6, True), (1e9, False)])
def test_a_faster_link_is_advised_where_bytes_take_that_long(tmp_path: Path, rate: float, bytes_are_it: bool) -> None:
    """800 kB of 400 kB of parameters: 0.8 s at 1 MB/s and 0.8 ms at 1 GB/s, where a second is exposed."""
    facts = {"num_trainable_parameters": 100_000, "communication_dtype": "float32", "parameter_dtype": "float32"}
    links = {"all_reduce": [{"bytes": 1, "seconds": 1.0, "busbw": rate}]}
    rows = [*paired([1.0, 1.0]), profiled("ddp", BASE), profiled("zero1", {**BASE, "communication": 1.0}, links=links)]
    machine = json.dumps({"gpu": "H100", "gpu_links": ["0-1 NVLink", "0-2 NVLink", "1-2 through the host"]})
    rows = [{**row, "facts": json.dumps(facts), "environment": machine} for row in rows]
    _, zero1 = analyse([write(tmp_path / "ledger.parquet", rows)]).explanations
    assert "in communication that nothing hides: communication 1,000. " in zero1.sentence
    assert ("a faster link" in zero1.sentence) == bytes_are_it
    assert ("ranks that wait for one another" in zero1.sentence) != bytes_are_it
    assert "GB/s (NVLink and through the host): at least" in zero1.link


def test_what_no_kind_of_part_makes_is_not_known(tmp_path: Path) -> None:
    spread = {**BASE, "data": 0.6, "gradient hooks": 0.7}
    assert explained(tmp_path / "a", spread).sentence == (
        "zero1 adds 1,000 ms to a step of 2,000 ms: data 500, gradient hooks 500. The cause is not known: no one kind "
        "of part makes most of it."
    )
    for nobodys in ("other", "waiting", "a part of another raybench"):
        assert "The cause is not known" in explained(tmp_path / nobodys, {**BASE, nobodys: 1.0}).sentence


@pytest.mark.parametrize(
    ("of_ddp", "of_zero1", "is_known"),
    [
        ([], ["CPU limit of the container"], False),
        (["CPU limit of the container"], ["CPU limit of the container"], True),
        ([], ["foreign CPU use"], True),
        (None, ["foreign CPU use"], True),
    ],
)
def test_a_disturbed_machine_is_named_and_one_that_was_held_back_alone(
    tmp_path: Path, of_ddp: list[str] | None, of_zero1: list[str], is_known: bool
) -> None:
    rows = paired([2 / 3] * 3, base=2.0)
    rows += [{**profiled("ddp", BASE), "contaminated": of_ddp}]
    rows += [{**profiled("zero1", {**BASE, "optimizer": 1.2}), "contaminated": of_zero1}]
    _, zero1 = analyse([write(tmp_path / "ledger.parquet", rows)]).explanations
    alone = ", and not while ddp did" if of_ddp == [] else ""
    seen = f"while it ran{alone}, the machine was disturbed ({of_zero1[0]})."
    assert (seen in zero1.sentence) == (of_ddp != of_zero1)
    assert ("Why is not known" in zero1.sentence) == (not is_known)
    assert ("all of it on the host: optimizer 1,000" in zero1.sentence) == is_known
    assert "optimizer 1,000" in zero1.sentence


def test_what_else_changed_is_said_and_what_changed_the_other_way(tmp_path: Path) -> None:
    found = explained(
        tmp_path, {**BASE, "gradient hooks": 1.2, "communication": 0.3, "other operators": 0.2}, busy_share=0.01
    )
    assert found.sentence == (
        "zero1 adds 1,000 ms to a step of 2,000 ms, most of it on the host: gradient hooks 1,000; beside it "
        f"communication 300; the other way other operators 300; the accelerator is busy for 1 % of the step. {LARGER}"
    )


def test_steps_that_were_shorter_under_the_profiler_are_a_caution(tmp_path: Path) -> None:
    told = {**BASE, "data": 1.1}
    assert "machine was not the same" in explained(tmp_path / "a", told, profiled_step_seconds=2.0).sentence
    assert "machine was not the same" not in explained(tmp_path / "b", told, profiled_step_seconds=2.9).sentence


def test_a_shorter_step_is_explained_without_advice(tmp_path: Path) -> None:
    found = explained(tmp_path, {**BASE, "matrix products": 0.4})
    assert (
        found.sentence == "zero1 takes 600 ms off a step of 2,000 ms, all of it in its operators: matrix products 600."
    )


def test_shares_of_the_log_ratio_add_up_to_it_also_where_nothing_differs() -> None:
    assert shared_out({"data": 1.0}, {"optimizer": 1.0}) == {"data": -1.0, "optimizer": 1.0}
    assert shared_out({"data": 2.0}, {"data": 1.0})["data"] == pytest.approx(-log(2.0))


def test_large_numbers_are_written_out() -> None:
    assert [_three(number) for number in (0.1234, 11.04, 999.4, 999.7, 3200.4)] == [
        "0.123",
        "11",
        "999",
        "1,000",
        "3,200",
    ]
