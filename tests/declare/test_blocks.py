"""Which trials share their processes: of one repeat and different settings, alike, enough of them, no slot idle."""

from __future__ import annotations

import math

import pytest

from raybench.declare.blocks import Blocks, Pace, num_starts
from raybench.declare.plan import Plan, Trial, build_plan
from raybench.declare.space import load_space

SETTINGS = 12


def make_plan(repeats: int = 3, **changes: str) -> Plan:
    batches = {"setting.batch_size": str([8 * (n + 1) for n in range(SETTINGS)]), "setting.model": "lenet"}
    return build_plan(*load_space("quickstart", {**batches, "repeats": str(repeats), **changes}), sweep="s")


def pace(plan: Plan, *, trial: float, start: float) -> Pace:
    legs = {(t.setting_id, leg.arm_name): trial / len(t.legs) for t in plan.trials for leg in t.legs}
    return Pace(legs, start)


def all_blocks(blocks: Blocks) -> list[list[Trial]]:
    return list(iter(blocks.next_block, []))


@pytest.mark.parametrize(
    ("trial", "start", "slots", "sizes"),
    [
        (100.0, 10.0, 1, [1] * 36),  # a start is less than a tenth of one trial
        (30.0, 10.0, 1, [3] * 12),  # 90 s of legs to a start of 10 s
        (20.0, 10.0, 1, [6] * 6),  # it takes 5, and 12 make two blocks of 6
        (1.0, 10.0, 1, [12] * 3),  # no more settings than there are
        (1.0, 10.0, 99, [1] * 36),
    ],
)
def test_as_many_as_make_the_start_a_tenth_and_keep_the_slots_busy(
    trial: float, start: float, slots: int, sizes: list[int]
) -> None:
    plan = make_plan()
    blocks = all_blocks(Blocks(plan.trials, slots, pace(plan, trial=trial, start=start)))
    assert [len(block) for block in blocks] == sizes


def test_near_the_end_no_slot_is_without_work() -> None:
    plan = make_plan()
    left = len(plan.trials)
    for block in all_blocks(Blocks(plan.trials, 4, pace(plan, trial=1.0, start=10.0))):
        assert len(block) <= math.ceil(left / 4)
        left -= len(block)
    assert left == 0


def test_a_settings_trials_never_share_a_block_and_every_trial_runs_once() -> None:
    plan = make_plan()
    blocks = all_blocks(Blocks(plan.trials, 2, Pace()))
    assert sorted(t.trial_id for block in blocks for t in block) == sorted(t.trial_id for t in plan.trials)
    for block in blocks:
        assert len({trial.setting_id for trial in block}) == len(block)
        assert len({trial.repeat for trial in block}) == 1


def test_only_trials_that_need_the_same_share_a_block() -> None:
    plan = make_plan(repeats=1, **{"setting.workers": "[1,2]", "setting.batch_size": "[8,16]"})
    blocks = all_blocks(Blocks(plan.trials, 1, Pace()))
    assert [{trial.setting.workers for trial in block} for block in blocks] == [{1}, {2}]


def test_deterministic_settings_have_blocks_of_their_own() -> None:
    plan = make_plan(repeats=1, **{"setting.deterministic": "[false,true]", "setting.batch_size": "[8,16]"})
    blocks = all_blocks(Blocks(plan.trials, 1, Pace()))
    assert [{trial.setting.deterministic for trial in block} for block in blocks] == [{False}, {True}]


def test_fresh_processes_for_each_leg_are_shared_by_no_trials() -> None:
    plan = make_plan(repeats=1, isolation="fresh")
    assert [len(block) for block in all_blocks(Blocks(plan.trials, 1, Pace()))] == [1] * SETTINGS


def test_a_trial_that_is_bound_to_other_machines_has_a_block_of_its_own() -> None:
    plan = make_plan(repeats=1)
    bound = {plan.trials[1].trial_id: "n1", plan.trials[2].trial_id: "n2"}
    blocks = Blocks(plan.trials, 1, pace(plan, trial=1.0, start=10.0))
    first, second, third = (blocks.next_block(lambda t: bound.get(t.trial_id)) for _ in range(3))
    assert len(first) == SETTINGS - 2
    assert [second, third] == [[plan.trials[1]], [plan.trials[2]]]


def test_what_a_sweep_learns_sizes_its_next_blocks() -> None:
    plan, known = make_plan(), Pace()
    blocks = Blocks(plan.trials, 1, known)
    assert len(blocks.next_block()) == SETTINGS  # nothing is known: 8 would do, and 12 are not two times 8
    known.add_start(10.0)
    for trial in plan.trials[:SETTINGS]:
        for leg in trial.legs:
            known.add_leg(trial.setting_id, leg.arm_name, 100.0)
    assert len(blocks.next_block()) == 1


def test_a_blocks_start_is_shared_out_among_its_trials() -> None:
    plan = make_plan(repeats=1)
    assert sum(num_starts(plan.trials, 1, pace(plan, trial=30.0, start=10.0)).values()) == pytest.approx(4)
    fresh = make_plan(repeats=1, isolation="fresh")
    assert sum(num_starts(fresh.trials, 1, Pace()).values()) == len(fresh.legs())


def test_only_so_many_trials_of_a_setting_as_are_wanted() -> None:
    plan = make_plan()
    blocks = Blocks(plan.trials, 1, pace(plan, trial=1.0, start=10.0))
    some = [trial.setting_id for trial in plan.trials[:4]]
    blocks.want(dict.fromkeys(some, 2))
    assert [{(t.setting_id, t.repeat) for t in block} for block in all_blocks(blocks)] == [
        {(setting_id, repeat) for setting_id in some} for repeat in range(2)
    ]
    blocks.want({some[0]: 3})  # after a look only this one is open
    assert [[(t.setting_id, t.repeat) for t in block] for block in all_blocks(blocks)] == [[(some[0], 2)]]


def test_what_is_known_of_the_pace_travels_as_text() -> None:
    pace = Pace({("a", "ddp"): 2.0}, 7.0)
    pace.add_leg("a", "ddp", 4.0)
    pace.add_start(9.0)
    again = Pace.from_json(pace.to_json())
    assert again.to_json() == pace.to_json()
    assert again.start_seconds == 8.0
    again.add_leg("b", "zero", 1.0)
    assert again._legs["a", "ddp"] == [2.0, 4.0]
    assert Pace.from_json(Pace().to_json()).start_seconds == Pace().start_seconds
