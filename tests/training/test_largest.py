"""The largest batch: the search, what a space may ask, and the real thing on a model of known appetite."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raybench.declare.plan import Plan, Trial, build_plan
from raybench.declare.setting import parse_bytes
from raybench.declare.space import load_space
from raybench.errors import ProbeFailed, UserError
from raybench.ledger.batches import LargestBatch, Probe, note_batch
from raybench.ledger.columns import build_row
from raybench.ledger.outcome import Failure, Measurement
from raybench.training.largest import LargestSearch, Prober, find_largest
from raybench.training.ranks import Ranks
from raybench.training.worker import run_legs

SPACE = """
setting:
  model: "tests.training.hungry:build"
  dataset: digits
  batch_size: {batch_size}
  memory_limit: {limit}
  device: cpu
  model_options: {{mebibytes: {mebibytes}}}
arms: {{plain: {{engine: torch}}, twin: {{engine: torch}}}}
protocol: {{warmup_steps: 1, steps: 2, rounds: 1, telemetry: false}}
repeats: 2
"""


def plan(folder: Path, batch_size: str = "max", limit: str = "64GiB", mebibytes: int = 1, **overrides: str) -> Plan:
    file = folder / "hungry.yaml"
    file.write_text(SPACE.format(batch_size=batch_size, limit=limit, mebibytes=mebibytes))
    name, space = load_space(str(file), overrides={key.replace("__", "."): value for key, value in overrides.items()})
    return build_plan(name, space)


@pytest.mark.parametrize("start", [1, 2, 7, 64, 1000])
def test_the_search_finds_the_largest_that_fits(start: int) -> None:
    for largest, most in itertools.product([0, 1, 2, 3, 17, 64, 99, 100], [1, 100]):
        found, probes = find_largest(lambda size: Probe(size, size <= largest, None, None), most, start)  # noqa: B023
        assert found == min(largest, most)
        sizes = [probe.micro_batch for probe in probes]
        assert len(set(sizes)) == len(sizes)
        assert all(1 <= size <= most for size in sizes)
        assert len(sizes) <= 14


def test_the_search_doubles_then_halves_the_rest() -> None:
    _, probes = find_largest(lambda size: Probe(size, size <= 21, None, None), 1000)
    assert [probe.micro_batch for probe in probes] == [2, 4, 8, 16, 32, 24, 20, 22, 21]


@pytest.mark.parametrize(("text", "number"), [("2GiB", 2**31), ("1.5 GB", 1_500_000_000), ("512", 512), ("3KiB", 3072)])
def test_bytes_are_read_as_people_write_them(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"setting__accumulation": "2"}, "max needs accumulation 1"),
        ({"setting__memory_limit": "null"}, "needs memory_limit"),
        ({"setting__memory_limit": "lots"}, "'lots' is no number of bytes"),
        ({"setting__memory_limit": "0"}, "greater than 0"),
        ({"setting__batch_size": "maximum"}, "batch_size"),
    ],
)
def test_what_cannot_be_sought_is_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(tmp_path, **changes)


def test_batches_that_differ_are_declared_and_ids_stay(tmp_path: Path) -> None:
    sought, fixed = plan(tmp_path), plan(tmp_path, batch_size="16", limit="null")
    assert sought.trials[0].differs == ("batch_size",)
    assert sought.trials[0].label == "tests.training.hungry:build digits bmax fp32 w1"
    assert fixed.trials[0].differs == ()
    again = Plan.model_validate_json(sought.model_dump_json())
    assert again == sought
    leg = sought.trials[0].legs[0].with_micro_batch(5)
    assert (leg.setting.global_batch, leg.leg_id) == (5, sought.trials[0].legs[0].leg_id)


def test_a_row_says_which_batch_was_taken_and_how_it_was_found(tmp_path: Path) -> None:
    trial = plan(tmp_path).trials[0]
    found = LargestBatch(12, 2**30, {"cpu": "x"}, (Probe(12, True, 5, None),))
    outcome = Failure("error", "later trouble", batch_probes=found)
    row = build_row("s", "hungry", trial, trial.legs[0], outcome)
    assert (row["global_batch"], row["micro_batch"], json.loads(row["batch_probes"])) == (12, 12, {
        "micro_batch": 12, "memory_limit": 2**30, "machine": {"cpu": "x"},
        "probes": [{"micro_batch": 12, "fits": True, "peak_bytes": 5, "reason": None}],
    })  # fmt: skip
    batches: dict[str, dict[str, LargestBatch]] = {}
    note_batch(batches, row)
    assert batches == {row["setting_id"]: {row["arm"]: found}}
    row = build_row("s", "hungry", trial, trial.legs[0], Failure("out_of_memory", "nothing fits"))
    assert (row["global_batch"], row["micro_batch"], row["batch_probes"]) == (None, None, None)


def alone(trial: Trial) -> Ranks:
    return Ranks(0, 1, torch.device("cpu"), None)


@pytest.mark.slow
def test_a_known_appetite_is_found_to_the_sample(tmp_path: Path) -> None:
    appetite = 256 * 2**20  # of a sample
    trial = plan(tmp_path, mebibytes=256).trials[0]
    with Prober(trial, trial.legs[0], alone(trial)) as prober:
        one = prober.probe(1)
    assert one.fits
    assert one.peak_bytes is not None
    limit = one.peak_bytes + int(2.5 * appetite)  # room for three samples, and for no fourth
    trial = plan(tmp_path, mebibytes=256, limit=str(limit)).trials[0]
    outcomes = {}
    run_legs(
        [(trial, trial.legs)], alone(trial), lambda _: None, lambda leg, found: outcomes.update({leg.arm_name: found})
    )
    for outcome in outcomes.values():
        assert isinstance(outcome, Measurement), outcome
        assert outcome.samples_per_step == 3
        assert outcome.batch_probes is not None
        probes = {probe.micro_batch: probe for probe in outcome.batch_probes.probes}
        assert (probes[3].fits, probes[4].fits) == (True, False)
        assert probes[3].peak_bytes - one.peak_bytes == pytest.approx(2 * appetite, rel=0.1)
        assert "and the limit is" in probes[4].reason
    # The second arm's search began where the first one's ended; a later trial of the setting seeks no more.
    first, second = (outcomes[leg.arm_name].batch_probes for leg in trial.legs)
    assert (first.probes[0].micro_batch, second.probes[0].micro_batch) == (2, 3)
    known = {"plain": replace(first, micro_batch=17), "twin": replace(second, machine={"cpu": "another"})}
    largest = LargestSearch(trial, alone(trial), first.machine, known)
    assert largest.of(next(leg for leg in trial.legs if leg.arm_name == "plain")).micro_batch == 17
    assert "twin" not in largest._found


@pytest.mark.slow
def test_one_process_serves_probe_after_probe_until_it_dies(tmp_path: Path) -> None:
    trial = plan(tmp_path, mebibytes=256).trials[0]
    with Prober(trial, trial.legs[0], alone(trial)) as prober:
        first = prober.probe(1)
        assert first.peak_bytes is not None
        child = prober._child
        second = prober.probe(3)
        assert prober._child is child
        assert second.peak_bytes == pytest.approx(first.peak_bytes + 2 * 256 * 2**20, rel=0.1)
        assert child is not None
        child.kill()
        killed = prober.probe(2)
        assert not killed.fits
        assert "was killed" in str(killed.reason)
        assert prober._child is None
        assert prober.probe(2).fits  # in a new one


@pytest.mark.slow
def test_a_limit_too_small_for_one_sample_is_out_of_memory_and_a_failed_probe_keeps_its_kind(tmp_path: Path) -> None:
    trial = plan(tmp_path, limit="64MiB").trials[0]
    found = {}
    legs = [leg for leg in trial.legs if leg.arm_name == "plain"]
    run_legs([(trial, legs)], alone(trial), lambda _: None, lambda leg, outcome: found.update({leg.arm_name: outcome}))
    failure = found["plain"]
    assert isinstance(failure, Failure)
    assert failure.kind == "out_of_memory"
    assert "not even a micro-batch of 1 fits" in failure.message
    assert failure.batch_probes is not None
    assert [probe.micro_batch for probe in failure.batch_probes.probes] == [2, 1]
    broken = plan(tmp_path, setting__model_options="{mebibytes: nothing}").trials[0]
    with pytest.raises(ProbeFailed, match="at a micro-batch of 2") as caught:
        LargestSearch(broken, alone(broken), {}).of(broken.legs[0])
    assert caught.value.kind == "invalid_config"
