"""`steps: auto` in legs: the pilot on a faked clock, who decides, and real legs that all measure the same number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.declare.plan import Leg, Plan, build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.statistics.num_steps import LEAST, PILOT_MOST, WITHOUT_PILOT, StepChoices
from raybench.training.pilot import choose_steps, with_steps
from raybench.training.ranks import Ranks
from raybench.training.worker import run_legs
from tests.ledger.test_dataset import MEASUREMENT

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: [32, 64], workers: 1, device: cpu}
arms: {other: {engine: torch}, ddp: {engine: torch}}
baseline: ddp
protocol: {warmup_steps: 2, steps: auto, rounds: 2, telemetry: false}
repeats: 2
"""
ALONE = Ranks(0, 1, torch.device("cpu"), None)


def plan(folder: Path, text: str = SPACE) -> Plan:
    file = folder / "mine.yaml"
    file.write_text(text)
    return build_plan(*load_space(str(file)))


def pilots(outcome: Outcome, planned: Plan) -> Iterator[tuple[Any, list[str], list[tuple[Any, str]]]]:
    """By trial: the choice, the legs that were said to begin, and what was run."""
    choices = StepChoices()
    for trial in planned.trials:
        begun: list[str] = []
        ran: list[tuple[Any, str]] = []

        def begin(leg: Leg, begun: list[str] = begun) -> bool:
            begun.append(leg.arm_name)
            return True

        def run(trial: Any, leg: Leg, ran: list[tuple[Any, str]] = ran) -> Outcome:
            ran.append((trial.protocol, leg.arm_name))
            return outcome

        yield choose_steps(trial, ALONE, begin, run, choices.of), begun, ran


def test_a_setting_has_one_pilot_of_its_baseline(tmp_path: Path) -> None:
    measured = replace(MEASUREMENT, step_seconds=[5.0, 5.0, *[0.01, 0.02] * 20], warmup_steps=2, setup_seconds=0.4)
    planned = plan(tmp_path)
    settings: set[str] = set()
    for trial, (choice, begun, ran) in zip(planned.trials, pilots(measured, planned), strict=True):
        new = trial.setting_id not in settings
        settings.add(trial.setting_id)
        assert begun == ["ddp"] * new
        assert [arm for _, arm in ran] == ["ddp"] * new
        assert all((p.steps, p.phases, p.warmup_steps) == ("auto", False, 2) for p, _ in ran)
        assert choice.pilot_steps == 40
        assert choice.step_seconds == pytest.approx(0.015)
        assert choice.beside_seconds == pytest.approx(0.4 + 2 * 0.015 + 0.1)
        assert with_steps(trial, choice).protocol.steps == choice.steps  # type: ignore[union-attr]
    assert len(settings) == 2


def test_a_baseline_that_cannot_run_leaves_the_other_arms_a_number(tmp_path: Path) -> None:
    choice, _, _ = next(pilots(Failure("out_of_memory", "too large"), plan(tmp_path)))
    assert (choice.steps, choice.problem) == (WITHOUT_PILOT, "the baseline's pilot failed: too large")


def test_no_pilot_where_no_leg_is_to_begin(tmp_path: Path) -> None:
    def run(*_: Any) -> Outcome:
        raise AssertionError

    trial = plan(tmp_path).trials[0]
    assert choose_steps(trial, ALONE, lambda _: False, run, lambda _id, _pilot: None) is None


def test_legs_of_a_sweep_measure_what_its_ledger_says(tmp_path: Path) -> None:
    """Two blocks, the second in processes that know the ledger alone, as after a kill."""
    planned, ledger = plan(tmp_path), Ledger(tmp_path / "ledger")
    begun: list[str] = []
    for repeat in (0, 1):
        choices = StepChoices()
        for row in ledger.rows(StepChoices.COLUMNS):
            choices.note(row)
        trials = [trial for trial in planned.trials if trial.repeat == repeat]
        trial_of = {leg.leg_id: trial for trial in trials for leg in trial.legs}

        def record(leg: Leg, outcome: Outcome, trial_of: Any = trial_of, choices: Any = choices) -> None:
            assert isinstance(outcome, Measurement), outcome
            choices.note(ledger.add("sweep", "mine", trial_of[leg.leg_id], leg, outcome))

        def begin(leg: Leg) -> None:
            begun.append(leg.leg_id)

        run_legs([(trial, trial.legs) for trial in trials], ALONE, begin, record, None, choices.of)
    rows = ledger.rows()
    assert len(begun) == len(rows) + 2  # a pilot of each setting
    for setting in {row["setting_id"] for row in rows}:
        legs = [row for row in rows if row["setting_id"] == setting]
        counted = {len(row["step_seconds"]) - row["warmup_steps"] for row in legs}
        choice = json.loads(*{row["steps_choice"] for row in legs})
        assert counted == {choice["steps"]}
        assert LEAST <= choice["pilot_steps"] <= PILOT_MOST
        assert len(legs) == 8


def test_a_profiled_leg_needs_no_choice(tmp_path: Path) -> None:
    (leg, *_) = [leg for _, leg in plan(tmp_path, f"{SPACE}explain: true\n").legs() if leg.profiled]
    assert leg.protocol is not None
    assert leg.protocol.steps == 20  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SPACE.replace("steps: auto", "steps: automatic"), "mine.yaml:5: protocol.steps: input should be a valid "
         "integer or 'auto', not 'automatic'"),
        (SPACE.replace("warmup_steps: 2, steps: auto, rounds: 2", "kind: train, epochs: 2, steps: auto"),
         "protocol.steps: unknown key"),
        ("arms: {a: {engine: script, command: ls}, b: {engine: script, command: ls}}\nprotocol: {steps: auto}",
         "write protocol.steps as a number"),
    ],
)  # fmt: skip
def test_a_wrong_use_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as told:
        plan(tmp_path, text)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
