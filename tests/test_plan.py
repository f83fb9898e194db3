"""The plan: balance of its orders, stability of its ids, what resume rests on."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise, permutations

import pytest

from raybench.declare.plan import Plan, build_plan, leg_order
from raybench.declare.space import Space, load_space
from tests.conftest import ROOT, Commands

ARMS = ["a", "b", "c"]


def plan(**overrides: str) -> Plan:
    changes = {"repeats": "4"} | {key.replace("__", "."): value for key, value in overrides.items()}
    name, space = load_space("quickstart", changes)
    return build_plan(name, space)


@pytest.mark.parametrize("arms", [ARMS[:2], ARMS, ["a", "b", "c", "d", "e"]])
@pytest.mark.parametrize("rounds", [2, 4])
def test_each_arm_is_as_often_in_each_half_of_a_trial(arms: list[str], rounds: int) -> None:
    for repeat in range(7):
        order = [arm for arm, _ in leg_order(arms, rounds, 1, "setting", repeat)]
        half = len(order) // 2
        assert Counter(order[:half]) == Counter(order[half:])
        positions = {arm: sum(i for i, name in enumerate(order) if name == arm) for arm in arms}
        assert len(set(positions.values())) == 1  # so a linear drift cancels


def test_rounds_alternate_in_direction() -> None:
    order = leg_order(ARMS, 3, 0, "setting", 0)
    first, second, third = ([arm for arm, r in order if r == round_] for round_ in range(3))
    assert second == first[::-1]
    assert third == first


def test_with_one_round_a_pair_of_repeats_balances() -> None:
    for pair in range(4):
        forth = [arm for arm, _ in leg_order(ARMS, 1, 3, "s", 2 * pair)]
        back = [arm for arm, _ in leg_order(ARMS, 1, 3, "s", 2 * pair + 1)]
        assert back == forth[::-1]


def test_over_repeats_every_arm_stands_in_every_place() -> None:
    places = Counter(
        (arm, place)
        for repeat in range(2 * len(ARMS))
        for place, (arm, _) in enumerate(leg_order(ARMS, 1, 5, "s", repeat))
    )
    assert set(places.values()) == {2}
    assert len(places) == 9


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 11])
def test_every_arm_follows_every_other_equally_often(count: int) -> None:
    arms = [f"a{i}" for i in range(count)]
    repeats = count if count % 2 == 0 else 2 * count
    orders = [[arm for arm, _ in leg_order(arms, 1, 4, "s", repeat)] for repeat in range(repeats)]
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert set(follows) == set(permutations(arms, 2))
    assert len(set(follows.values())) == 1
    assert len(set(Counter(place for order in orders for place in enumerate(order)).values())) == 1


def test_the_order_is_drawn_from_the_seed() -> None:
    orders = {tuple(leg_order(ARMS, 1, seed, "s", 0)) for seed in range(40)}
    assert len(orders) == 6
    assert leg_order(ARMS, 2, 7, "s", 3) == leg_order(ARMS, 2, 7, "s", 3)


def test_ids_are_of_content_and_unique() -> None:
    first, again = plan(), plan()
    assert first == again
    ids = [leg.leg_id for _, leg in first.legs()]
    assert len(set(ids)) == len(ids) == 3 * 4 * 6
    assert len({trial.trial_id for trial in first.trials}) == 12
    assert len({trial.seed for trial in first.trials}) == 12


def test_what_changes_a_measurement_changes_its_ids() -> None:
    base = {leg.leg_id for _, leg in plan().legs()}
    for change in (
        {"protocol__steps": "25"}, {"seed": "1"}, {"isolation": "fresh"}, {"setting__optimizer__lr": "2e-3"},
        {"setting__batch_size": "64"},
    ):  # fmt: skip
        assert not base & {leg.leg_id for _, leg in plan(**change).legs()}, change


def test_what_changes_no_measurement_keeps_the_ids() -> None:
    base = {leg.leg_id for _, leg in plan().legs()}
    more = plan(repeats="6")
    assert base < {leg.leg_id for _, leg in more.legs()}
    assert more.sweep == plan().sweep
    assert base == {leg.leg_id for _, leg in plan(question__margin="0.1").legs()}
    another_arm = {leg.leg_id for _, leg in plan(arms__zero1__config__zero_optimization__stage="2").legs()}
    assert len(base & another_arm) == 3 * 4 * 4  # of the three arms, one is another


def test_repeats_are_spread_over_the_whole_sweep() -> None:
    assert [trial.repeat for trial in plan().trials] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_plan_survives_json() -> None:
    original = plan()
    assert Plan.model_validate_json(original.model_dump_json()) == original


def test_labels_tell_settings_apart() -> None:
    labels = {trial.label for trial in plan(setting__accumulation="[1,2]", setting__model="lenet").trials}
    assert labels == {"lenet digits b32 fp32 w2 accumulation=1", "lenet digits b32 fp32 w2 accumulation=2"}


def test_labels_tell_optimizers_apart() -> None:
    optimizers = [{"name": "adamw", "lr": 1e-3}, {"name": "adamw", "lr": 1e-2}, {"name": "sgd", "lr": 1e-2}]
    name, space = load_space("quickstart", {"setting.model": "lenet", "repeats": "1"})
    space = space.model_copy(update={"setting": {**space.setting, "optimizer": optimizers}})
    labels = [trial.label for trial in build_plan(name, space).trials]
    assert labels == [f"lenet digits b32 fp32 w2 {it}" for it in ("adamw lr=0.001", "adamw lr=0.01", "sgd")]


def test_labels_say_no_more_than_is_needed() -> None:
    labels = [trial.label for trial in build_plan(*load_space("paper")).trials[:27]]
    assert labels[0] == "lenet mnist b64 fp32 w4"  # its learning rate goes with its batch
    assert len(set(labels)) == 27


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml")))
def test_every_shipped_space_plans(name: str, commands: Commands) -> None:
    done = commands.run("plan", f"space={name}")
    assert done.returncode == 0, done.stderr
    assert "Nothing is run" in done.stdout
    assert list(commands.folder.iterdir()) == []
    listed = json.loads(commands.run("plan", f"space={name}", "--json").stdout)
    space: Space = load_space(name)[1]
    assert len(listed["trials"]) == len(list(space.settings())) * space.repeats


def test_choices_that_have_their_usual_value_rename_nothing() -> None:
    usual = plan(setting__model="lenet")
    trial = usual.trials[0]
    assert {"nodes", "accelerator", "node_labels"} & trial.setting.identity().keys() == set()
    same = plan(setting__model="lenet", setting__nodes="1", setting__accelerator="null", slots_per_node="1")
    assert [leg.leg_id for _, leg in same.legs()] == [leg.leg_id for _, leg in usual.legs()]
    shared = plan(setting__model="lenet", slots_per_node="2")
    assert shared.trials[0].setting_id == trial.setting_id
    assert not {leg.leg_id for _, leg in shared.legs()} & {leg.leg_id for _, leg in usual.legs()}
    assert plan(setting__model="lenet", setting__nodes="2").trials[0].setting_id != trial.setting_id


def test_a_plan_of_another_version_is_refused() -> None:
    written = json.loads(build_plan(*load_space("quickstart")).model_dump_json())
    assert Plan.model_validate(written).plan_version == 1
    with pytest.raises(ValueError, match="plan_version 2 is not known to this raybench, which reads 1"):
        Plan.model_validate({**written, "plan_version": 2})
