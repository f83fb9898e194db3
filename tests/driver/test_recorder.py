"""The recorder without Ray: durable rows, what is left, which leg died, where a trial ran, a recorder that was killed;
and MLflow when it is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raybench.cluster.admission import Granted, Wait
from raybench.cluster.fleet import Need, Node
from raybench.declare.plan import Plan, Trial, build_plan
from raybench.declare.space import load_space
from raybench.driver.messages import BeginsAnew, Group, News, Note, Unfinished
from raybench.driver.recorder import Recorder
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure
from raybench.ledger.reading import read_ledger
from raybench.machine.places import RankPlace, RankReport
from raybench.statistics.num_steps import Pilot
from tests.ledger.test_dataset import MEASUREMENT


@pytest.fixture
def plan() -> Plan:
    return build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}), sweep="s")


@pytest.fixture
def recorder(plan: Plan, tmp_path: Path) -> Recorder:
    return Recorder(
        plan.model_dump_json(),
        str(tmp_path / "led"),
        "question: {}\n",
        f"sqlite:///{tmp_path}/m.db",
        str(tmp_path / "a"),
    )


def block_of(recorder: Recorder, trial: Trial) -> int:
    """The number of the trial's block; as the plan has one setting, the trials' numbers are their blocks'."""
    number = 0
    while block := recorder.next_block(number):
        if trial in block.trials:
            return number
        number += 1
    raise AssertionError(trial)


def left(recorder: Recorder, trial: Trial) -> list[str]:
    return list(recorder.next_group(block_of(recorder, trial)).legs)


def places(*nodes: str, gpus: bool = False) -> list[RankReport]:
    return [RankReport(RankPlace(n, (f"GPU-{i}",) if gpus else ()), f"id of {n}") for i, n in enumerate(nodes)]


def record(recorder: Recorder, leg_id: str, **changes: float) -> None:
    recorder.block_began(block_of(recorder, recorder.legs[leg_id][0]))
    recorder.begin("group", leg_id)
    recorder.record("group", leg_id, replace(MEASUREMENT, **changes))


def test_a_recorded_leg_is_durable_and_no_longer_left(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    trial = plan.trials[0]
    assert left(recorder, trial) == [leg.leg_id for leg in trial.legs]
    assert not (tmp_path / "led").exists()
    record(recorder, trial.legs[0].leg_id)
    (row,) = Ledger(tmp_path / "led").rows()
    assert (row["leg_id"], row["process_group"]) == (trial.legs[0].leg_id, "group")
    assert (tmp_path / "led/_space.yaml").read_text() == "question: {}\n"
    assert left(recorder, trial) == [leg.leg_id for leg in trial.legs[1:]]
    assert recorder.unfinished("group").leg_id is None


def test_the_first_leg_of_a_block_says_how_long_its_start_took(plan: Plan, tmp_path: Path) -> None:
    now = [100.0]
    recorder = Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a"),
        clock=lambda: now[0],
    )  # fmt: skip
    first, second, *_ = plan.trials[0].legs
    recorder.next_block(0)  # Ray Tune chooses it
    now[0] += 2
    recorder.block_began(0, "process")
    now[0] += 3
    for leg in (first, second):
        recorder.begin("group", leg.leg_id)
        recorder.record("group", leg.leg_id, MEASUREMENT)
        now[0] += 1
    starts = {row["leg_id"]: row["start_seconds"] for row in Ledger(tmp_path / "led").rows()}
    assert starts == {first.leg_id: 5.0, second.leg_id: None}


def test_how_many_steps_a_setting_has_outlives_a_recorder(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    setting = plan.trials[0].setting_id
    assert recorder.choose_steps(setting) is None
    choice = recorder.choose_steps(setting, Pilot((0.01, 0.02) * 20, 1.0))
    assert choice is not None
    assert choice.steps >= 10
    killed = Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a")
    )
    assert killed.choose_steps(setting, Pilot((1.0, 1.1) * 20, 1.0)) == choice


def test_the_leg_that_a_dead_group_had_begun(recorder: Recorder, plan: Plan) -> None:
    first, second, *_ = plan.trials[0].legs
    assert recorder.unfinished("group").leg_id is None
    record(recorder, first.leg_id)
    recorder.begin("group", second.leg_id)
    died = recorder.unfinished("group")
    assert died.leg_id == second.leg_id
    assert 0 <= died.seconds < 60


def test_a_legs_first_outcome_stays(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    leg = plan.trials[0].legs[0]
    record(recorder, leg.leg_id, first_loss=1.0)
    record(recorder, leg.leg_id, first_loss=2.0)
    recorder.record("other", leg.leg_id, Failure("crashed", "late"))
    assert [row["first_loss"] for row in Ledger(tmp_path / "led").rows()] == [1.0]


def test_what_happened_is_told_once(recorder: Recorder, plan: Plan) -> None:
    first, second, *_ = plan.trials[0].legs
    record(recorder, first.leg_id)
    recorder.begin("group", second.leg_id)
    recorder.record("group", second.leg_id, Failure("timeout", "too long"))
    news = recorder.news(0)
    assert [event.failure for event in news.events] == ["", "timeout: too long"]
    assert news.events[0].mean_step_seconds == pytest.approx(0.1875)
    assert 0 <= news.events[0].seconds < 60
    assert news.running == []
    assert recorder.news(2, 1).events == []
    recorder.begin("group", plan.trials[0].legs[2].leg_id, "node7")
    (runs,) = recorder.news(2, 1).running
    assert (runs.arm, runs.node) == (plan.trials[0].legs[2].arm_name, "node7")


def test_a_sweep_that_is_to_stop_begins_no_leg_and_keeps_the_one_that_runs(recorder: Recorder, plan: Plan) -> None:
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial))
    assert recorder.begin("group", trial.legs[0].leg_id)
    recorder.drain()
    assert recorder.news(0).num_active == 1
    recorder.record("group", trial.legs[0].leg_id, MEASUREMENT)
    assert not recorder.begin("group", trial.legs[1].leg_id)
    assert left(recorder, trial) == []
    assert recorder.unfinished("group").leg_id is None
    recorder.block_ended(block_of(recorder, trial))
    assert recorder.news(1, 1) == News(incarnation=1)


def test_what_cannot_be_written_ends_the_sweep_and_its_leg_has_no_outcome(
    recorder: Recorder, plan: Plan, tmp_path: Path
) -> None:
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial))
    (tmp_path / "led").write_text("")  # a file where the folder should be
    assert recorder.begin("group", trial.legs[0].leg_id)
    recorder.record("group", trial.legs[0].leg_id, MEASUREMENT)
    news = recorder.news(0, 1)
    assert (news.trouble, news.events) == ("File exists", [])
    assert not recorder.begin("group", trial.legs[1].leg_id)
    assert recorder.unfinished("group").leg_id is None
    assert left(recorder, trial) == []


def test_a_failures_message_tells_no_secret(
    recorder: Recorder, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123")
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial))
    recorder.begin("group", trial.legs[0].leg_id)
    recorder.record("group", trial.legs[0].leg_id, Failure("error", "401 for hf_0123"))
    assert [row["failure_message"] for row in Ledger(tmp_path / "led").rows()] == ["401 for ***"]
    assert recorder.news(0).events[-1].failure == "error: 401 for ***"


def test_a_recorder_begun_anew_knows_what_the_ledger_holds(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    record(recorder, plan.trials[0].legs[0].leg_id)
    plan_file = tmp_path / "plan.json"  # as a sweep hands it over
    plan_file.write_text(plan.model_dump_json())
    again = Recorder(plan_file, str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/n.db", str(tmp_path / "b"))
    assert len(left(again, plan.trials[0])) == len(plan.trials[0].legs) - 1
    assert again.finish() == []


def test_without_mlflow_the_rows_are_kept_and_the_error_is_told(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/file/m.db", str(tmp_path)
    )
    record(recorder, plan.trials[0].legs[0].leg_id)
    record(recorder, plan.trials[1].legs[0].leg_id)
    for trial in plan.trials:
        recorder.block_ended(block_of(recorder, trial))
    errors = recorder.finish()
    assert errors
    assert len(Ledger(tmp_path / "led").rows()) == 2


def killed_and_restarted(recorder: Recorder, plan: Plan, tmp_path: Path) -> Recorder:
    """Another recorder where the first one was, which was never asked to end."""
    return Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a")
    )


def test_a_recorder_begun_anew_knows_who_has_which_nodes(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    """The second block waits for the first, without a limit and without a word, as before the recorder was killed."""
    need, (first, second) = Need(1, (("bench_slot", 1.0),)), [block_of(recorder, trial) for trial in plan.trials]
    free, taken = ([Node("id of n1", "n1", {"bench_slot": 1.0}, {"bench_slot": left})] for left in (1.0, 0.0))
    recorder.block_began(first)
    recorder.block_began(second)
    assert recorder.admit(first, need, (), free) == Granted(("id of n1",))
    again = killed_and_restarted(recorder, plan, tmp_path)  # before its processes are up
    assert again.admit(second, need, (), free) == Wait()
    again.group_placed(first, "g1", places("n1"))
    third = killed_and_restarted(again, plan, tmp_path)
    assert third.admit(second, need, (), taken) == Wait()
    assert third.news(0).missed == []
    assert third.admit(first, need, (), taken) == Granted(("id of n1",))
    third.block_ended(first)
    assert third.admit(second, need, (), free) == Granted(("id of n1",))


def run_group(recorder: Recorder, trial: Trial, group: str, nodes: list[str], num_legs: int) -> list[str]:
    """A group on these nodes runs the first legs that are left. Returns what it was told to run."""
    legs = recorder.group_placed(block_of(recorder, trial), group, places(*nodes))
    for leg_id in legs[:num_legs]:
        assert recorder.begin(group, leg_id)
        recorder.record(group, leg_id, MEASUREMENT)
    return legs


def test_a_trial_that_goes_on_where_it_was_keeps_its_legs(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial))
    assert recorder.next_group(block_of(recorder, trial)) == Group(tuple(leg.leg_id for leg in trial.legs))
    run_group(recorder, trial, "g1", ["n1", "n1"], 2)
    assert recorder.next_group(block_of(recorder, trial)).nodes == ("n1",)
    assert len(run_group(recorder, trial, "g2", ["n1", "n1"], 9)) == len(trial.legs) - 2
    rows = Ledger(tmp_path / "led").rows()
    assert {(row["attempt"], row["placement"]) for row in rows} == {
        (0, '[{"gpus": [], "node": "n1"}, {"gpus": [], "node": "n1"}]')
    }
    assert not (tmp_path / "led/_aside").exists()


def test_a_trial_that_goes_on_elsewhere_begins_anew(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    trial, ledger = plan.trials[0], Ledger(tmp_path / "led")
    legs = [leg.leg_id for leg in trial.legs]
    recorder.block_began(block_of(recorder, trial))
    run_group(recorder, trial, "g1", ["n1", "n1"], 2)
    recorder.begin("g1", legs[2])
    recorder.cut(block_of(recorder, trial), "g1", "lost node n1")
    recorder.cut(block_of(recorder, trial), "g1", "lost node n1")  # a call that was repeated tells it once
    assert recorder.next_group(block_of(recorder, trial)).was_cut
    assert run_group(recorder, trial, "g2", ["n2", "n2"], 0) == legs
    assert run_group(recorder, trial, "g2", ["n2", "n2"], 1) == legs  # nor does this one withdraw anything more
    assert recorder.next_group(block_of(recorder, trial)) == Group(tuple(legs[1:]), ("n2",))
    (row,) = ledger.rows()
    assert (row["leg_id"], row["attempt"], row["withdrawn"]) == (legs[0], 1, None)
    withdrawn = ledger.withdrawn()
    assert [(row["leg_id"], row["attempt"]) for row in withdrawn] == [(legs[0], 0), (legs[1], 0)]
    assert withdrawn[0]["withdrawn"] == "measured on n1, but the trial's other legs run on n2"
    assert len(read_ledger(tmp_path / "led")) == 1
    notes = [event for event in recorder.news(0).events if isinstance(event, Note)]
    assert [note.text.partition(": ")[2] for note in notes] == [
        f"lost node n1; {trial.legs[2].arm_name} of round 0 runs again",
        "begins anew on n2; 2 legs measured on n1 no longer count",
    ]
    assert notes[1].begins_anew == BeginsAnew(trial.setting_id, 0, 1)


def test_other_gpus_of_the_same_node_are_another_place(recorder: Recorder, plan: Plan) -> None:
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial))
    run_group(recorder, trial, "g1", ["n1"], 0)
    there = places("n1", "n1", gpus=True)
    for group, where, attempt in [
        ("g2", there, 0),
        ("g3", there[::-1], 0),  # the same GPUs in another order of ranks
        ("g4", [there[0], replace(there[1], place=RankPlace("n1", ("GPU-7",)))], 1),
    ]:
        legs = recorder.group_placed(block_of(recorder, trial), group, where)
        recorder.begin(group, legs[0])
        recorder.record(group, legs[0], MEASUREMENT)
        assert recorder.attempts.get(trial.trial_id, 0) == attempt


def test_once_the_sweep_is_to_stop_a_block_without_processes_is_not_waited_for(recorder: Recorder, plan: Plan) -> None:
    first, second = plan.trials
    recorder.block_began(block_of(recorder, first))
    recorder.block_began(block_of(recorder, second))  # its nodes have yet to come
    recorder.group_placed(block_of(recorder, first), "g1", places("n1"))
    assert recorder.news(0).num_active == 2
    recorder.drain()
    assert recorder.news(0).num_active == 1


def test_nothing_is_taken_from_a_group_that_was_left_behind(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial), "process 1")
    first, second, *_ = recorder.group_placed(block_of(recorder, trial), "g1", places("n1"))
    recorder.begin("g1", first)
    recorder.block_began(block_of(recorder, trial), "process 1")  # the same call again
    assert recorder.begin("g1", first)
    recorder.block_began(
        block_of(recorder, trial), "process 2"
    )  # the first was killed; its workers may not know it yet
    recorder.record("g1", first, MEASUREMENT)
    assert not recorder.begin("g1", second)
    assert recorder.unfinished("g1").leg_id is None
    assert left(recorder, trial)[0] == first
    assert not list(tmp_path.glob("led/*.parquet"))
    (note,) = recorder.news(0).events
    assert "its trial process was killed" in note.text
    recorder.block_ended(block_of(recorder, trial))
    assert not recorder.begin("g1", second)
    assert recorder.news(0).num_active == 0


def test_a_leg_a_group_where_the_space_wants_it(plan: Plan, tmp_path: Path) -> None:
    trials = tuple(trial.model_copy(update={"isolation": "fresh"}) for trial in plan.trials)
    fresh = plan.model_copy(update={"trials": trials})
    recorder = Recorder(fresh.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/m.db", "")
    recorder.block_began(block_of(recorder, trials[0]))
    for number, leg in enumerate(trials[0].legs):
        assert run_group(recorder, trials[0], f"g{number}", ["n1"], 1) == [leg.leg_id]
    assert left(recorder, trials[0]) == []


def test_a_group_has_legs_of_one_environment(tmp_path: Path) -> None:
    overrides = {"setting.model": "lenet", "repeats": "1", "arms.zero1.packages": "{deepspeed: 0.18.4}"}
    plan = build_plan(*load_space("quickstart", overrides), sweep="s")
    recorder = Recorder(plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/m.db", "")
    (trial,) = plan.trials
    assert trial.differs == ("packages",)
    recorder.next_block(0)
    recorder.block_began(0)
    groups = []
    while (group := recorder.next_group(0)).legs:
        groups.append((group.packages, [recorder.legs[leg_id][1].arm_name for leg_id in group.legs]))
        name = f"g{len(groups)}"
        if group.packages:
            recorder.refuse(0, group.legs, Failure("unsupported", "no such version"))
        else:
            assert recorder.group_placed(0, name, places("n1", "n1")) == list(group.legs)
            for leg_id in group.legs:
                recorder.begin(name, leg_id)
                recorder.record(name, leg_id, MEASUREMENT)
    order = [leg.arm_name for leg in trial.legs]
    assert [arm for _, arms in groups for arm in arms] == order
    assert all(packages == ({"deepspeed": "0.18.4"} if "zero1" in arms else {}) for packages, arms in groups)
    rows = Ledger(tmp_path / "led").rows()
    assert {(row["arm"], row["status"]) for row in rows} == {("ddp", "ok"), ("zero1", "failed"), ("zero3", "ok")}
    assert {row["packages"] for row in rows if row["arm"] == "zero1"} == {'{"deepspeed": "0.18.4"}'}


def versions_recorder(folder: Path) -> Recorder:
    overrides = {"setting.model": "lenet", "repeats": "1", "arms.zero1.packages": "{deepspeed: 0.18.4}"}
    plan = build_plan(*load_space("quickstart", overrides), sweep="s")
    recorder = Recorder(plan.model_dump_json(), str(folder / "led"), "", f"sqlite:///{folder}/m.db", "")
    recorder.next_block(0)
    recorder.block_began(0)
    return recorder


def run_until_other_versions(recorder: Recorder) -> Group:
    """Run groups of the base environment on n1; the first group that is of another."""
    while not (group := recorder.next_group(0)).packages:
        name = f"g{len(recorder.done)}"
        for leg_id in recorder.group_placed(0, name, places("n1"), {}):
            recorder.begin(name, leg_id)
            recorder.record(name, leg_id, MEASUREMENT)
    return group


def test_a_trial_that_begins_anew_runs_no_leg_in_another_ones_environment(tmp_path: Path) -> None:
    recorder = versions_recorder(tmp_path)
    run_until_other_versions(recorder)
    if not recorder.done:  # its first legs are of those versions: then the others are
        legs = recorder.group_placed(0, "g", places("n1"), {"deepspeed": "0.18.4"})
        for leg_id in legs:
            recorder.begin("g", leg_id)
            recorder.record("g", leg_id, MEASUREMENT)
    group = recorder.next_group(0)
    assert recorder.group_placed(0, "elsewhere", places("n2"), group.packages) == []
    assert not recorder.done
    again = recorder.next_group(0)
    assert again.packages != group.packages
    assert recorder.group_placed(0, "next", places("n2"), again.packages) == list(again.legs)


def test_a_recorder_that_was_killed_goes_on(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    trial = plan.trials[0]
    recorder.block_began(block_of(recorder, trial))
    run_group(recorder, trial, "g1", ["n1"], 1)
    recorder.begin("g1", trial.legs[1].leg_id)
    again = killed_and_restarted(recorder, plan, tmp_path)
    assert again.unfinished("g1").leg_id == trial.legs[1].leg_id
    assert again.unfinished("g1").node_ids == ("id of n1",)
    news = again.news(1, incarnation=1)  # what the driver asks of the first recorder
    assert news.incarnation == 2
    assert [getattr(event, "leg_id", None) for event in news.events] == [trial.legs[0].leg_id, None]
    assert "continues from the ledger" in news.events[1].text
    assert [one.arm for one in news.running] == [trial.legs[1].arm_name]
    again.record("g1", trial.legs[0].leg_id, MEASUREMENT)  # its answer had been lost
    again.record("g1", trial.legs[1].leg_id, MEASUREMENT)
    assert [event.leg_id for event in again.news(2, incarnation=2).events] == [trial.legs[1].leg_id]
    assert {row["placement"] for row in Ledger(tmp_path / "led").rows()} == {'[{"gpus": [], "node": "n1"}]'}
    again.drain()
    assert left(killed_and_restarted(again, plan, tmp_path), trial) == []


def test_a_recorder_whose_ledger_is_gone_does_not_begin_another(recorder: Recorder, plan: Plan, tmp_path: Path) -> None:
    record(recorder, plan.trials[0].legs[0].leg_id)
    (tmp_path / "led").rename(tmp_path / "elsewhere")
    with pytest.raises(RuntimeError, match="led is gone"):
        killed_and_restarted(recorder, plan, tmp_path)


def test_a_clock_that_is_set_back_changes_no_duration(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(100, 10_000, 7))
    recorder = Recorder(
        plan.model_dump_json(), str(tmp_path / "led"), "", f"sqlite:///{tmp_path}/m.db", "",
        clock=lambda: float(next(moments)),
    )  # fmt: skip
    trial = plan.trials[0]
    monkeypatch.setattr("time.time", lambda: 2e9)
    recorder.block_began(block_of(recorder, trial))  # at 100
    recorder.begin("g", trial.legs[0].leg_id)  # at 107
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert recorder.unfinished("g") == Unfinished(trial.legs[0].leg_id, 7.0, 2e9)
    recorder.record("g", trial.legs[0].leg_id, MEASUREMENT)  # at 121
    (event,) = recorder.news(0).events
    assert (event.seconds, event.trial_seconds) == (14.0, 21.0)


def test_whether_a_setting_came_to_its_trials(recorder: Recorder, plan: Plan) -> None:
    setting = plan.trials[0].setting_id
    assert not recorder.any_complete({setting: 1})
    for leg in plan.trials[0].legs:
        record(recorder, leg.leg_id)
    assert recorder.any_complete({setting: 1})
    assert not recorder.any_complete({setting: 2})
