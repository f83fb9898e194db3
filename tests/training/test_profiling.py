"""Profiled legs for real, in one process: the plan of them, their rows and traces, and profilers that fail."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.analysis import analyse
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.messages import leg_event
from raybench.driver.progress import Progress
from raybench.ledger.dataset import Ledger
from raybench.ledger.parts import PARTS
from raybench.training import profiling
from raybench.training.ranks import Ranks
from raybench.training.timeline import Fold
from raybench.training.worker import run_legs
from raybench.verify import main as verify
from tests.training.fake import FakeEngine, FakeTime, batches, loss_of

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 16, device: cpu}
arms: {plain: {engine: torch}, foreach: {engine: torch, bucket_cap_mb: 1}}
protocol: {warmup_steps: 2, steps: 6, rounds: 1, telemetry: false}
repeats: 2
explain: true
"""


def plan_of(folder: Path, *, explain: bool = True) -> Plan:
    path = folder / "small.yaml"
    path.write_text(SPACE)
    return build_plan(*load_space(str(path), {"explain": str(explain).lower()}))


def run(plan: Plan, folder: Path) -> Ledger:
    ledger = Ledger(folder)
    ledger.write_space(SPACE)
    for trial in plan.trials:

        def record(leg: Any, outcome: Any, trial: Any = trial) -> None:
            ledger.add(plan.sweep, plan.space, trial, leg, outcome)

        run_legs([(trial, trial.legs)], Ranks(0, 1, torch.device("cpu"), None), lambda _: None, record)
    return ledger


def test_the_first_trial_of_a_setting_gets_a_profiled_leg_of_each_arm_and_nothing_is_renamed(tmp_path: Path) -> None:
    plain, explained = plan_of(tmp_path, explain=False), plan_of(tmp_path)
    assert explained.sweep == plain.sweep
    first, second = explained.trials
    assert second == plain.trials[1]
    assert first.legs[:2] == plain.trials[0].legs
    assert [(leg.profiled, leg.round, leg.position) for leg in first.legs[2:]] == [(True, 1, 2), (True, 1, 3)]
    assert {leg.arm_name for leg in first.legs[2:]} == {"plain", "foreach"}
    assert len({leg.leg_id for _, leg in explained.legs()}) == 6


def test_profiled_legs_explain_and_count_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path)
    ledger = run(plan, tmp_path / "ledger")
    rows = {row["leg_id"]: row for row in ledger.rows()}
    profiled = [row for row in rows.values() if row["profiled"]]
    assert len(profiled) == 2
    for row in profiled:
        profile = json.loads(row["profile"])
        measured = row["step_seconds"][row["warmup_steps"] :]
        assert sum(profile["parts"].values()) == pytest.approx(sum(measured) / len(measured), rel=0.05)
        assert set(profile["parts"]) <= set(PARTS)
        assert profile["parts"]["matrix products"] > 0
        assert profile["missing"] == []
        assert "trace_content" not in profile
        trace = json.loads(gzip.decompress((tmp_path / "ledger" / "_traces" / profile["trace"]).read_bytes()))
        assert any(event["name"] == "raybench::backward" for event in trace["traceEvents"])
    progress = Progress(plan)
    complete = [progress.add(leg_event(rows[leg.leg_id])) for _, leg in plan.legs()]
    assert complete == [False, True, False, False, False, True]
    assert (progress.num_legs, progress.num_done, progress.num_trials_done) == (4, 4, 2)
    analysis = analyse([tmp_path / "ledger"])
    assert analysis.num_legs == 4
    assert len(analysis.explanations) == 2
    assert verify([str(tmp_path / "ledger")]) == 0
    assert "ids     holds" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["start", "end", "trace", "size", "limit"])
def test_a_profiler_that_fails_costs_the_explanation_alone(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("no room for events")

    if broken == "start":
        monkeypatch.setattr(profiling, "profile", fail)
    elif broken == "end":
        monkeypatch.setattr(torch.profiler.profile, "__exit__", fail)
    elif broken == "size":
        monkeypatch.setattr(profiling, "_MOST_RAW_BYTES", 100)
    elif broken == "trace":
        monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", fail)
    else:
        monkeypatch.setattr(profiling, "MOST_TRACE_BYTES", 100)
    time = FakeTime()
    engine: Any = FakeEngine(time, forward=1.0, backward=1.0, step=1.0)
    ranks = Ranks(0, 1, torch.device("cpu"), None)
    profiled = profiling.profile_steps(engine, batches(time, 0.0), loss_of, 1, ranks)
    assert engine.calls.count(("step",)) == profiling.STEPS + 1  # the other ranks wait for these steps
    told = profiling.combined([profiled], 1.0)
    words = {
        "start": "the profiler did not start: MemoryError: no room",
        "end": "the profiler did not end: MemoryError: no room",
        "trace": "the trace could not be read",
        "size": "too much to be read",
    }
    assert words.get(broken, "and was not kept") in told["missing"][0]
    assert "trace_content" not in told
    assert (told["parts"] is not None) == (broken == "limit")


def test_a_rank_without_a_fold_leaves_the_leg_without_parts() -> None:
    whole, lost = profiling.ProfiledSteps(), profiling.ProfiledSteps()
    whole.fold, lost.missing = Fold(1.0, {"data": 1.0}, {"data": 1.0}, 0.0, 1.0), ["the profiler did not start"]
    told = profiling.combined([whole, lost], 1.0)
    assert (told["parts"], told["missing"]) == (None, ["the profiler did not start"])


@pytest.mark.parametrize("sees_kernels", [True, False])
def test_without_cupti_the_hosts_side_alone_is_told_and_that_is_said(sees_kernels: bool) -> None:
    """Ranks of a GPU, whose profiler exports this trace."""
    kernel = {"ph": "X", "cat": "kernel", "name": "sgemm", "ts": 12.0, "dur": 5.0, "tid": 7}
    phases = ("data", "forward", "backward", "step") * 2 + ("data",)
    events: list[dict[str, Any]] = [
        {"ph": "X", "cat": "user_annotation", "name": f"raybench::{name}", "ts": 10.0 * place, "dur": 10.0, "tid": 1}
        for place, name in enumerate(phases)
    ]

    class Profiler:
        def export_chrome_trace(self, path: str) -> None:
            shown = [*events, kernel | {"ts": 52.0}] if sees_kernels else events
            Path(path).write_text(json.dumps({"traceEvents": shown}))

    profiled = profiling.ProfiledSteps()
    profiled._read(Profiler(), 1, Ranks(0, 1, torch.device("cuda"), None))
    told = profiling.combined([profiled], 40e-6)
    assert sum(told["parts"].values()) == pytest.approx(40e-6)
    assert (told["kernels"] == 1.0) == sees_kernels
    assert [text for text in told["missing"] if "it lacks CUPTI" in text] == ([] if sees_kernels else told["missing"])
    assert bool(told["missing"]) != sees_kernels
