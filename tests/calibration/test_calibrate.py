"""Calibration: the plan that it makes, what it reads off a ledger, how a plan uses it, and once for real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.calibrate import calibration_plan, isolated_plan, isolated_space, shared_space
from raybench.calibration.calibration import Calibration, read_calibration
from raybench.calibration.detection import UNKNOWN_SCATTER, half_width
from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.machine.fingerprint import this_machine
from tests.analysis.simulation import Truth, simulate_ledger
from tests.conftest import Commands

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 32, device: cpu}
arms:
  plain: {engine: torch}
  zero1: {engine: deepspeed, zero: 1}
protocol: {warmup_steps: 2, steps: 6, rounds: 2}
repeats: 4
"""


@pytest.fixture
def space_file(commands: Commands) -> str:
    (commands.folder / "tiny.yaml").write_text(SPACE)
    return str(commands.folder / "tiny.yaml")


def simulated(tmp_path: Path, **changes: object) -> Calibration:
    truth = Truth({"ddp": 1.0, "ddp_again": 1.0, "ddp_without_phases": 1.02}, num_trials=40, **changes)  # type: ignore[arg-type]
    simulate_ledger(tmp_path / "shared" / "legs.parquet", truth, seed=1)
    return read_calibration(
        tmp_path / "shared", space="cnns", baseline="ddp", again="ddp_again",
        instruments={"phases": "ddp_without_phases"}, num_arms=3, rounds=2,
    )  # fmt: skip


def test_the_number_of_trials_is_fixed_where_a_sweep_stops_when_settled(space_file: str) -> None:
    _, space = load_space(space_file, {"repeats": "{min: 3, max: 16}"})
    assert space.looks
    assert [made(space).repeats for made in (shared_space, isolated_space)] == [16, 16]


def test_the_plan_is_the_baseline_against_itself_with_and_without_its_instruments(space_file: str) -> None:
    name, space = load_space(space_file)
    plan = calibration_plan(name, space)
    sweep = build_plan(name, space)
    assert len(plan.trials) == 4
    assert [trial.setting_id for trial in plan.trials] == [trial.setting_id for trial in sweep.trials]
    for trial in plan.trials:
        legs = {leg.arm_name: leg for leg in trial.legs}
        assert {"plain", "plain_again", "plain_without_phases"} <= legs.keys()
        assert all(leg.arm == space.arms["plain"] for leg in trial.legs)
        assert [name for name, leg in legs.items() if leg.is_baseline] == ["plain"]
        for arm, leg in legs.items():
            changed = {arm.removeprefix("plain_without_"): False} if "without" in arm else {}
            wanted = space.protocol.model_copy(update=changed)
            assert trial.as_measured(leg).protocol == wanted
    assert len({leg.leg_id for _, leg in plan.legs()}) == len(plan.legs())
    again = calibration_plan(name, space.model_copy(update={"repeats": 6}))
    assert again.sweep == plan.sweep  # more trials of the same calibration
    assert {trial.trial_id for trial in plan.trials} < {trial.trial_id for trial in again.trials}


def test_isolated_trials_hold_the_two_arms_alone_in_a_ledger_of_their_own(space_file: str) -> None:
    name, space = load_space(space_file)
    shared = calibration_plan(name, space)
    fresh = isolated_plan(shared, space)
    assert fresh.sweep == f"{shared.sweep}-fresh"
    assert {trial.isolation for trial in fresh.trials} == {"fresh"}
    assert {leg.arm_name for _, leg in fresh.legs()} == {"plain", "plain_again"}


def test_scatter_and_prices_of_a_simulated_machine(tmp_path: Path) -> None:
    found = simulated(tmp_path, trial_deviation=0.01, leg_deviation=0.0, step_deviation=0.0).settings[0]
    assert found.scatter is not None
    assert found.scatter.low < 0.01 < found.scatter.high
    assert found.scatter.degrees == 39
    assert found.components.trial == pytest.approx(found.scatter.deviation)
    assert (found.components.round, found.components.step) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert found.verdict == "no effect"
    (phases,) = found.instruments
    assert phases.name == "phases"
    assert phases.low is not None
    assert phases.high is not None
    assert phases.low < 0.02 < phases.high
    assert found.outlook[2].trials == 8
    assert found.outlook[2].false_verdict < 1e-4


def test_isolation_is_told_where_both_kinds_of_trial_were_run(tmp_path: Path) -> None:
    assert simulated(tmp_path).settings[0].isolation is None
    simulate_ledger(tmp_path / "fresh" / "legs.parquet", Truth({"ddp": 1.0, "ddp_again": 1.0}, num_trials=9), seed=2)
    both = read_calibration(
        tmp_path / "shared", space="cnns", baseline="ddp", again="ddp_again", instruments={}, num_arms=3, rounds=2,
        fresh=tmp_path / "fresh",
    )  # fmt: skip
    # The simulated legs all began at one moment, so nothing can be said about equal machine time.
    assert both.settings[0].isolation is None
    assert both.settings[0].scatter == simulated(tmp_path).settings[0].scatter


def calibrated(commands: Commands, space_file: str, **changes: object) -> Path:
    """A calibration of this machine for the space, as raybench.calibrate would keep it."""
    trial = build_plan("tiny", load_space(space_file)[1]).trials[0]
    setting = replace(
        simulated(commands.folder).settings[0], setting_id=trial.setting_id, machine=this_machine(with_gpu=False),
        protocol=trial.protocol.model_dump(mode="json"), leg_seconds=2.0, start_seconds=10.0,
    )  # fmt: skip
    folder = commands.folder / "mlruns/ledger/calibration/tiny-1234"
    folder.mkdir(parents=True)
    return replace(simulated(commands.folder), settings=(replace(setting, **changes),)).write(folder)  # type: ignore[arg-type]


def plan_in_words(commands: Commands, *words: str) -> str:
    done = commands.run("plan", "space=tiny.yaml", *words)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_a_plan_uses_the_calibration_of_this_machine(commands: Commands, space_file: str) -> None:
    assert f"Detects: {UNKNOWN_SCATTER}" in plan_in_words(commands)
    kept = json.loads(calibrated(commands, space_file).read_text())
    deviation = kept["settings"][0]["scatter"]["deviation"]
    words = plan_in_words(commands)
    assert "calibrated on this machine, mlruns/ledger/calibration/tiny-1234" in words
    assert f"would reach about {100 * half_width(4, 0.05, deviation):.1f} % to each side" in words
    assert "about 72 s of machine time" in words  # 4 trials x (10 s + 4 legs x 2 s) = 72 s
    assert "with other settings or another protocol" in plan_in_words(commands, "setting.batch_size=64")
    assert "with other settings or another protocol" in plan_in_words(commands, "protocol.steps=7")
    assert "calibrated on this machine, mlruns" in plan_in_words(commands, "protocol.phases=false")


def test_a_calibration_of_another_machine_is_not_used(commands: Commands, space_file: str) -> None:
    calibrated(commands, space_file, machine={**this_machine(with_gpu=False), "cpu_cores": 96})
    assert "this machine's scatter is not measured" in plan_in_words(commands)


def test_a_damaged_calibration_is_named(commands: Commands, space_file: str) -> None:
    path = calibrated(commands, space_file)
    path.write_text(path.read_text()[:300])
    done = commands.run("plan", "space=tiny.yaml")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "_calibration.json: not a calibration" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "space= is missing"),
        (["space=tiny.yaml", "sweep=mine"], "named after its space"),
        (["space=tiny.yaml", "isolation=both", "nonsense"], "'nonsense' is neither key=value nor an option"),
        (["space=tiny.yaml", "isolation=twice"], "isolation=twice"),
    ],
)
def test_bad_input_is_one_line(commands: Commands, space_file: str, words: list[str], said: str) -> None:
    done = commands.run("calibrate", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_calibration_and_a_plan_that_uses_it(tmp_path: Path, ray_address: str) -> None:
    commands = Commands(tmp_path, ray_address)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    done = commands.run("calibrate", "space=tiny.yaml", "repeats=2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (setting,) = found["settings"]
    assert setting["n_trials"] == 2
    assert setting["failures"] == 0
    assert setting["scatter"]["degrees"] == 1
    assert setting["leg_seconds"] > 0
    assert setting["start_seconds"] > 0
    assert [one["n_trials"] for one in setting["instruments"]] == [2] * len(setting["instruments"])
    assert setting["machine"] == this_machine(with_gpu=False)
    words = plan_in_words(commands)
    assert "calibrated on this machine, mlruns/ledger/calibration/tiny-" in words
    again = commands.run("calibrate", "space=tiny.yaml", "repeats=2")
    assert "0 to run" in again.stdout
