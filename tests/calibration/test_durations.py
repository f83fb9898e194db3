"""What a plan says of time, cost and place: by hand from a ledger, and nothing where nothing was measured."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from raybench.calibration.durations import estimate
from raybench.cluster.placement import SLOT, Cluster, Place, connection_problem, find_cluster
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.ledger.dataset import Ledger
from raybench.machine.fingerprint import cpu_model
from raybench.show.outlook import cost_in_words, time_in_words
from raybench.show.units import duration
from tests.conftest import Commands
from tests.ledger.test_dataset import MEASUREMENT

LEG, START = {"ddp": 2.0, "zero1": 3.0, "zero3": 5.0}, 7.0  # seconds


def make_plan(**overrides: str) -> Plan:
    values = {"setting.model": "lenet", "repeats": "2", **{k.replace("__", "."): v for k, v in overrides.items()}}
    return build_plan(*load_space("quickstart", values), sweep="s")


def here(**changes: Any) -> dict[str, Any]:
    packages = {name: metadata.version(name) for name in ("torch", "deepspeed")}
    return {"cpu": cpu_model(), "cpu_cores": os.cpu_count(), "node": "n", "packages": packages, **changes}


def run(plan: Plan, results: Path, environment: dict[str, Any], arms: tuple[str, ...] = tuple(LEG)) -> None:
    """The ledger of a sweep in which each leg took LEG seconds, and starting a trial's processes START."""
    clock = 1_000_000.0
    for trial in plan.trials:
        clock += START
        for leg in trial.legs:
            parts = {"setup_seconds": 0.0, "train_seconds": LEG[leg.arm_name], "eval_seconds": 0.0}
            outcome = replace(
                MEASUREMENT, started_at=clock, environment=environment, process_group=trial.trial_id, **parts
            )
            clock += LEG[leg.arm_name]
            if leg.arm_name in arms:
                Ledger(results / "quickstart/earlier").add("earlier", "quickstart", trial, leg, outcome)


def test_the_time_is_that_of_legs_like_these(tmp_path: Path) -> None:
    run(make_plan(), tmp_path, here())
    whole = estimate(make_plan(repeats="10", protocol__rounds="3", protocol__telemetry="false"), tmp_path)
    assert whole.is_whole
    assert whole.seconds == pytest.approx(10 * (START + 3 * (2 + 3 + 5)))
    assert time_in_words(whole) == "about 6 min of machine time (as 12 legs took on this machine before)"
    assert time_in_words(whole, 4).startswith("about 6 min of machine time, 92 s on 4 slots".replace("92 s", "2 min"))
    assert cost_in_words(whole, 36.0).startswith("about 3.70, at 36 an hour and node")
    fresh = estimate(make_plan(isolation="fresh"), tmp_path)
    assert fresh.seconds == pytest.approx(2 * (6 * START + 2 * (2 + 3 + 5)))


def test_on_a_cluster_the_time_is_that_of_the_machines_of_the_newest_legs(tmp_path: Path) -> None:
    run(make_plan(), tmp_path, here(gpu="A10G"))
    assert estimate(make_plan(), tmp_path).num_known == 0, "this machine is another one"
    there = estimate(make_plan(), tmp_path, elsewhere=True)
    assert there.is_whole
    assert time_in_words(there).endswith("(as 12 legs took on machines with A10G before)")
    nothing = estimate(make_plan(setting__batch_size="64"), tmp_path, elsewhere=True)
    assert nothing.num_known == 0


def test_a_trial_over_two_nodes_takes_the_time_of_two_machines(tmp_path: Path) -> None:
    run(make_plan(setting__nodes="2"), tmp_path, here())
    spanning = estimate(make_plan(setting__nodes="2"), tmp_path)
    assert spanning.seconds == pytest.approx(2 * 2 * (START + 2 * (2 + 3 + 5)))
    assert time_in_words(spanning, 2).startswith("about 2 min of machine time, 54 s on 2 slots")


def test_a_machine_that_is_shared_counts_in_part(tmp_path: Path) -> None:
    run(make_plan(), tmp_path, here())
    shared = estimate(make_plan(slots_per_node="2"), tmp_path)
    assert shared.seconds == pytest.approx(estimate(make_plan(), tmp_path).seconds / 2)


def test_legs_whose_like_was_not_measured_have_no_time(tmp_path: Path) -> None:
    run(make_plan(), tmp_path, here(), arms=("ddp", "zero1"))
    part = estimate(make_plan(setting__model="[lenet,test_resnet]"), tmp_path)
    assert (part.num_known, part.num_legs) == (8, 24)
    assert time_in_words(part).startswith("at least ")
    assert "for 8 of its 24 legs; the others are not known" in time_in_words(part)
    assert cost_in_words(part, 1.0).startswith("at least ")


@pytest.mark.parametrize("changes", [{"protocol__steps": "99"}, {"setting__batch_size": "64"}])
def test_another_protocol_or_setting_says_nothing(tmp_path: Path, changes: dict[str, str]) -> None:
    run(make_plan(), tmp_path, here())
    nothing = estimate(make_plan(**changes), tmp_path)
    assert (nothing.seconds, nothing.num_known) == (0.0, 0)
    assert time_in_words(nothing).startswith("not known until")
    assert cost_in_words(nothing, 2.0).startswith("not known")


def test_another_machine_says_nothing_and_a_damaged_ledger_stops_nothing(tmp_path: Path) -> None:
    run(make_plan(), tmp_path, here(cpu="another processor"))
    broken = tmp_path / "other/broken"
    broken.mkdir(parents=True)
    (broken / "leg-1.parquet").write_text("no Parquet")
    assert estimate(make_plan(), tmp_path).num_known == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2.0 h")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_where_a_plan_runs_and_whether_it_fits() -> None:
    node = {"CPU": 8.0, "GPU": 2.0, SLOT: 1.0}
    place = Place(Cluster((node, node, node), is_local=False))
    words = place.in_words(make_plan(setting__workers="[1,2]"))
    assert words.endswith(
        "2 GPUs on its largest node; 3 trials at a time, each on a node of its own, of 1 to 2 workers"
    )
    assert "does not fit" in place.in_words(make_plan(setting__workers="4"))
    assert Place(None, "gone").in_words(make_plan()) == "gone"


def test_a_cluster_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert find_cluster().in_words(make_plan()).startswith("RAY_ADDRESS=127.0.0.1:1 cannot be joined: ")
    assert connection_problem("nonsense") == "it is no HOST:PORT"


def test_the_plan_prints_and_hands_over_time_and_cost(commands: Commands) -> None:
    run(make_plan(), commands.folder / "mlruns/ledger", here())
    words = ["space=quickstart", "setting.model=lenet", "repeats=2", "sweep=s", "price=3600"]
    shown = " ".join(commands.run("plan", *words).stdout.split())
    assert "Time: about 54 s of machine time" in shown
    assert "Cost: about 54.00" in shown
    outlook = json.loads(commands.run("plan", *words, "--json").stdout)["outlook"]
    assert (outlook["machine_seconds"], outlook["cost"]) == (pytest.approx(54.0), pytest.approx(54.0))
    refused = commands.run("plan", *words[:-1], "price=cheap")
    assert (refused.returncode, "price=cheap is not a number" in refused.stderr) == (2, True)


@pytest.mark.ray
def test_plan_and_doctor_look_at_a_real_cluster(tmp_path: Path, ray_address: str) -> None:
    commands = Commands(tmp_path, ray_address)
    shown = " ".join(commands.run("plan", "space=quickstart").stdout.split())
    assert "Fits: a Ray cluster of 1 node: 2 CPUs, no GPU on its largest node; one trial at a time" in shown
    found = json.loads(commands.run("doctor", "--json").stdout)["findings"]
    (ray,) = (one for one in found if one["name"] == "Ray")
    assert ray["status"] == "ok"
    assert ray["found"].endswith("2 CPUs, no GPU on its largest node, 1 slots")
