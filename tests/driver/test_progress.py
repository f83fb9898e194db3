"""How far a sweep is: counts, speedups so far by hand and by the analysis, the time left; and what a console shows."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console
from scipy import stats

from raybench.cluster.admission import Missed
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.display import MANY_LEGS, Display, Level
from raybench.driver.messages import BeginsAnew, LegEvent, News, Note
from raybench.driver.progress import Progress

MODELS = "setting.model"


def make_plan(repeats: int | str = 3, models: str = "lenet") -> Plan:
    return build_plan(*load_space("quickstart", {MODELS: models, "repeats": str(repeats)}), sweep="s")


def events(plan: Plan, step_seconds: dict[str, float] | None = None, leg_seconds: float = 2.0) -> list[LegEvent]:
    """An event for each leg of the plan, in order; a repeat is slower than the one before, alike in all arms."""
    seconds = step_seconds or {"ddp": 0.010, "zero1": 0.020, "zero3": 0.040}
    return [
        LegEvent(
            setting_id=trial.setting_id, setting=trial.label, repeat=trial.repeat, arm=leg.arm_name, round=leg.round,
            leg_id=leg.leg_id, is_baseline=leg.is_baseline, attempt=0, samples_per_step=32,
            mean_step_seconds=seconds[leg.arm_name]
            * (1 + 0.1 * trial.repeat * (leg.arm_name == "zero1"))
            * (1 + 0.5 * leg.round),
            seconds=leg_seconds, trial_seconds=10 + leg_seconds * (leg.position + 1),
        )
        for trial, leg in plan.legs()
    ]  # fmt: skip


def failed(event: LegEvent, message: str = "error: planted") -> LegEvent:
    return replace(event, mean_step_seconds=0.0, samples_per_step=0, failure=message)


def test_speedups_so_far_are_the_paired_ones_of_complete_trials() -> None:
    plan = make_plan()
    progress = Progress(plan)
    feed = events(plan)
    for event in feed[:5]:
        assert not progress.add(event)
    assert progress.speedups() == []  # no trial is complete
    assert progress.add(feed[5])
    assert {(s.arm, s.n, s.interval) for s in progress.speedups()} == {("zero1", 1, None), ("zero3", 1, None)}
    for event in feed[6:]:
        progress.add(event)
    zero1, zero3 = sorted(progress.speedups(), key=lambda one: one.arm)
    ratios = [math.log(1 / (2 * (1 + 0.1 * repeat))) for repeat in range(3)]
    mean = sum(ratios) / 3
    half = stats.t.ppf(0.975, 2) * math.sqrt(sum((r - mean) ** 2 for r in ratios) / 2 / 3)
    assert (zero1.n, zero1.speedup) == (3, pytest.approx(math.exp(mean)))
    assert zero1.interval == pytest.approx((math.exp(mean - half), math.exp(mean + half)))
    assert zero3.speedup == pytest.approx(0.25)
    assert zero3.interval == pytest.approx((0.25, 0.25))


def test_speedups_count_samples_where_arms_differ_in_batch() -> None:
    plan = make_plan(repeats=1)
    progress = Progress(plan)
    for event in events(plan, {"ddp": 0.01, "zero1": 0.01, "zero3": 0.01}):
        progress.add(replace(event, samples_per_step=64) if event.arm == "zero3" else event)
    assert {s.arm: s.speedup for s in progress.speedups()} == pytest.approx({"zero1": 1.0, "zero3": 2.0})


def test_a_failed_round_leaves_the_other_and_a_failed_arm_has_no_speedup() -> None:
    plan = make_plan(repeats=1)
    progress = Progress(plan)
    for event in events(plan):
        fails = event.arm == "zero3" or (event.arm == "ddp" and event.round == 1)
        progress.add(failed(event) if fails else event)
    (only,) = progress.speedups()
    assert (only.arm, only.speedup) == ("zero1", pytest.approx(0.5))
    assert progress.num_failed == 3


def test_what_the_ledger_had_counts_as_done_and_not_as_run() -> None:
    plan = make_plan()
    progress = Progress(plan)
    for event in events(plan)[:6]:
        progress.add(replace(event, trial_seconds=None))
    assert (progress.num_done, progress.num_trials_done) == (6, 1)
    assert progress.seconds_left(5.0) is None
    assert len(progress.speedups()) == 2
    assert not progress.add(replace(events(make_plan(repeats=9))[-1], repeat=8))  # not of this plan
    assert progress.num_done == 6


def cause_after(plan: Plan, number: int, **changes: str) -> str:
    """What `one_cause` says after a number of legs that all failed, those of an arm in `changes` with its words."""
    progress = Progress(plan)
    for event in events(plan)[:number]:
        progress.add(failed(event, changes.get(event.arm, f"error: no file for rank {event.repeat}")))
    return progress.one_cause()


def test_legs_that_all_fail_alike_have_one_cause_once_two_trials_say_so() -> None:
    plan = make_plan()
    assert cause_after(plan, 6) == cause_after(plan, 11) == ""
    assert cause_after(plan, 12) == "error: no file for rank 0"
    assert cause_after(plan, 18) == ""  # nothing is left to spare
    assert cause_after(plan, 12, zero3="error: other") == ""
    assert cause_after(plan, 12, ddp="timeout: x", zero1="timeout: x", zero3="timeout: x") == ""
    assert cause_after(make_plan(repeats=2, models="[lenet,test_resnet]"), 12) != ""
    assert cause_after(make_plan(repeats=2, models="[lenet,test_resnet,lenet5]"), 12) == ""  # the third may do


def test_a_measured_leg_or_failures_of_an_earlier_command_are_no_reason_to_stop() -> None:
    plan = make_plan()
    progress, resumed = Progress(plan), Progress(plan)
    for number, event in enumerate(events(plan)[:12]):
        progress.add(event if number == 3 else failed(event))
        resumed.add(replace(failed(event), seconds=None, trial_seconds=None))
    assert progress.one_cause() == resumed.one_cause() == ""


def test_the_time_left_is_exact_where_every_trial_is_alike() -> None:
    plan = make_plan(repeats=4)
    progress = Progress(plan)
    feed = events(plan, leg_seconds=3.0)
    trial_seconds = 10 + 6 * 3.0
    for number, event in enumerate(feed, 1):
        progress.add(event)
        complete, inside = divmod(number, 6)
        elapsed = complete * trial_seconds + (10 + inside * 3.0 if inside else 0)
        assert progress.seconds_left(elapsed) == pytest.approx(4 * trial_seconds - elapsed, abs=1e-6)


def test_the_time_left_knows_that_settings_differ() -> None:
    plan = make_plan(repeats=2, models="[lenet,test_resnet]")
    progress = Progress(plan)
    elapsed = 0.0
    for event in events(plan):
        if event.repeat == 0:
            slow = {"seconds": 20.0, "trial_seconds": 10 + 20.0 * 6} if "resnet" in event.setting else {}
            progress.add(replace(event, **slow))
            elapsed += slow.get("seconds", 2.0)
    assert progress.seconds_left(elapsed) == pytest.approx(elapsed)  # the second repeat is the first again


def shown(level: Level, num_events: int = 100, *, terminal: bool, repeats: int = 3, fail: bool = False) -> str:
    plan = make_plan(repeats)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, height=30, color_system=None)
    feed = [failed(event) if fail and event.arm == "zero3" else event for event in events(plan)][:num_events]
    ticks = iter(range(100_000))
    with Display(Progress(plan), console, level, clock=lambda: float(next(ticks))) as display:
        display.update(News(events=list(feed), num_active=1))
        display.stop()
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_without_a_terminal_there_is_a_line_a_leg_and_the_time_left_a_trial() -> None:
    lines = shown("normal", 7, terminal=False).splitlines()
    assert len([line for line in lines if "ms a step" in line]) == 7
    assert lines[0].startswith("[ 1/18] lenet digits b32 fp32 w2 | ")
    assert lines[6].startswith("about ")
    assert lines[6].endswith(" left")


def test_many_legs_are_told_by_trials_but_each_failure_once() -> None:
    repeats = MANY_LEGS // 6 + 1
    lines = shown("normal", 10_000, terminal=False, repeats=repeats, fail=True).splitlines()
    assert len([line for line in lines if "failed" in line]) == 1
    assert 2 <= len([line for line in lines if f"of {repeats} trials" in line]) <= repeats
    assert not any("ms a step" in line for line in lines)
    assert len([x for x in shown("verbose", terminal=False, repeats=repeats).splitlines() if "ms a step" in x]) == 100


def test_quiet_says_nothing_while_it_runs() -> None:
    assert shown("quiet", terminal=False, fail=True) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_nodes_that_are_waited_for_are_told_once_a_minute(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, height=30, color_system=None)
    with Display(Progress(make_plan(1)), console, "normal") as display:
        for seconds in (2.0, 15.0, 40.0, 74.0, 76.0, 180.0):
            missed = Missed("1 node with 4 GPUs", seconds, 1200.0)
            display.update(News(missed=[missed], num_active=1))
    output = console.file
    assert isinstance(output, io.StringIO)
    lines = [line for line in output.getvalue().splitlines() if "waiting for 1 node with 4 GPUs: " in line]
    assert any("3 min so far, at most 20 min" in line for line in lines)
    assert not any("2 s so far" in line for line in lines)
    assert terminal or len(lines) == 3


def test_the_live_view_shows_counts_speedups_and_failures_that_stay() -> None:
    text = shown("normal", 12, terminal=True, fail=True)
    assert "12/18" in text
    assert "trials 2/3; 4 legs failed" in text
    assert text.count("| zero3 | repeat 0 round 0: failed: error: planted") == 1
    assert re.search(r"zero1 +0\.477 +\d\.\d+ to \d\.\d+ +2\b", text)
    assert "helps" not in text
    assert "hurts" not in text
    assert "ms a step" not in text
    assert max(len(line) for line in text.splitlines() if "\x1b" not in line) <= 80


def test_a_trial_that_begins_anew_is_counted_once() -> None:
    plan = make_plan()
    progress, feed = Progress(plan), events(plan)
    for event in feed[:3]:
        progress.add(event)
    progress.begin_anew(BeginsAnew(feed[0].setting_id, 0, 1))
    assert progress.num_done == 0
    anew = [replace(event, attempt=1) for event in feed[:6]]
    assert not progress.has(anew[0])
    assert [progress.add(event) for event in anew] == [False] * 5 + [True]
    assert progress.has(anew[0])
    progress.begin_anew(BeginsAnew(feed[0].setting_id, 0, 1))  # told once more
    assert (progress.num_done, progress.num_trials_done) == (6, 1)


def test_a_failed_leg_that_is_tried_again_does_not_begin_its_trial_anew() -> None:
    plan = make_plan()
    progress, feed = Progress(plan), events(plan)
    for event in feed[:5]:  # in the ledger; the sixth was withdrawn by retry=
        progress.add(event)
    assert progress.add(replace(feed[5], attempt=1))
    assert (progress.num_done, progress.num_trials_done) == (6, 1)


def test_a_trial_that_begins_anew_untold_is_counted_once() -> None:
    plan = make_plan()
    progress, feed = Progress(plan), events(plan)
    for event in feed[:3]:
        progress.add(event)
    anew = [replace(event, attempt=1) for event in feed[:6]]
    assert [progress.add(event) for event in anew] == [False] * 5 + [True]
    progress.begin_anew(BeginsAnew(feed[0].setting_id, 0, 1))
    assert (progress.num_done, progress.num_trials_done) == (6, 1)


def test_what_a_recorder_tells_again_is_shown_once() -> None:
    plan = make_plan()
    console = Console(file=io.StringIO(), width=120)
    display = Display(Progress(plan), console, "verbose")
    feed = events(plan)[:4]
    again = [replace(event, trial_seconds=None) for event in feed]
    for told in (feed[:3], [*again, Note("the recorder was killed; a new one continues from the ledger")]):
        display.update(News(events=list(told), num_active=1))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line[:6] for line in lines if line.startswith("[")] == [f"[{n:>2}/18" for n in (1, 2, 3, 4)]
    assert lines[-1] == "note: the recorder was killed; a new one continues from the ledger"


def test_a_sweep_that_stops_when_settled_counts_the_trials_up_to_the_next_look() -> None:
    plan = make_plan(repeats="{min: 3, max: 16}")
    progress, out = Progress(plan), io.StringIO()
    now = [0.0]
    display = Display(progress, Console(file=out, width=100), "normal", clock=lambda: now[0])
    (setting,) = {trial.setting_id for trial in plan.trials}
    legs = len(plan.trials[0].legs)
    display.expect({setting: 3})
    now[0] = 22.0
    feed = events(plan)
    display.update(News(events=feed[:legs]))  # the first trial: 10 s of starting, legs of 2 s
    assert (progress.num_trials, progress.num_legs, progress.num_done) == (3, 3 * legs, legs)
    assert progress.seconds_left(22.0) == pytest.approx(44.0)  # two trials more, and not fifteen
    assert "to the next look" in out.getvalue()
    display.update(News(events=feed[legs : 3 * legs]))
    assert progress.seconds_left(66.0) == pytest.approx(0.0)
    display.expect({setting: 16})
    display.update(News())
    assert (progress.num_trials, progress.num_legs, progress.num_done) == (16, 16 * legs, 3 * legs)
    assert progress.seconds_left(66.0) == pytest.approx(13 * 22.0)
    assert not progress.until_a_look
