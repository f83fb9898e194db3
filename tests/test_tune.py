"""`raybench.tune`: the knobs of an arm, the rounds of the search, and the verdict on fresh trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raybench import tune
from raybench.declare.deepspeed_config import resolve
from raybench.declare.knobs import knobs_of, turned
from raybench.declare.plan import build_plan
from raybench.declare.setting import Setting
from raybench.declare.space import Space, load_space
from raybench.driver.proposals import Proposals
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure, Measurement
from raybench.sweep import Request, space_yaml

SPACE = """
setting: {model: lenet, dataset: digits, batch_size: 32, workers: 2}
arms:
  ddp: {engine: torch}
  zero3: {engine: deepspeed, zero: 3, reduce_bucket_size: 1000, offload: optimizer}
  zero1: {engine: deepspeed, config: {zero_optimization: {stage: 1, overlap_comm: true}}}
  plain: {engine: deepspeed}
protocol: {warmup_steps: 10, steps: 50, rounds: 2}
repeats: 3
"""


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "mine.yaml").write_text(SPACE)
    return load_space(str(tmp_path / "mine.yaml"))[1]


def test_knobs_are_those_of_the_engine_and_stage(space: Space) -> None:
    setting = tune.the_setting(space)
    names = {name: {knob.name for knob in knobs_of(arm, setting)} for name, arm in space.arms.items()}
    assert names["zero3"] == {
        "overlap_comm", "reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
        "sub_group_size", "offload_optimizer.pin_memory", "accumulation",
    }  # fmt: skip
    assert names["zero1"] == {"overlap_comm", "reduce_bucket_size", "allgather_bucket_size", "accumulation"}
    assert names["ddp"] == {"bucket_cap_mb", "gradient_as_bucket_view", "static_graph", "accumulation"}
    assert names["plain"] == set()
    one = Setting.model_validate({**setting.model_dump(), "batch_size": 2})
    assert "accumulation" not in {knob.name for knob in knobs_of(space.arms["zero1"], one)}


def test_every_choice_of_every_knob_is_an_arm_that_can_be(space: Space) -> None:
    setting = tune.the_setting(space)
    for name in ("zero3", "zero1"):
        for knob in knobs_of(space.arms[name], setting):
            for value in knob.values:
                arm: Any = turned(space.arms[name], {knob.name: value})
                found = resolve(arm, setting)
                assert found.problems == []
                if knob.name == "accumulation":
                    assert arm.setting == {"accumulation": value}
                    continue
                place: Any = found.config["zero_optimization"]
                for part in knob.name.split("."):
                    place = place[part]
                assert place == value
                assert json.loads(json.dumps(arm.config))["zero_optimization"]["stage"] == int(name[-1])
    assert turned(space.arms["ddp"], {"static_graph": True, "accumulation": 2}).model_dump()["static_graph"] is False


def test_the_same_answers_give_the_same_proposals_and_a_search_learns(space: Space) -> None:
    knobs = knobs_of(space.arms["zero1"], tune.the_setting(space))

    def searched() -> list[Any]:
        proposals, asked = Proposals(knobs, 3), []
        for number in range(40):
            choice = proposals.next(number)
            asked.append(choice)
            fast = choice["overlap_comm"] and choice["reduce_bucket_size"] == 10_000_000
            proposals.tell(number, None if number == 5 else 0.3 * fast)
        return asked

    first = searched()
    assert first == searched()
    good = [one["overlap_comm"] and one["reduce_bucket_size"] == 10_000_000 for one in first]
    assert sum(good[20:]) > sum(good[:20])


@pytest.mark.parametrize(
    ("names", "said"),
    [(["zero4"], "did you mean zero"), (["plain"], "has no knobs to tune"), ([], "")],
)
def test_what_can_be_tuned(space: Space, names: list[str], said: str) -> None:
    if said:
        with pytest.raises(UserError, match=said):
            tune.arms_to_tune(space, tune.the_setting(space), names)
    else:
        assert list(tune.arms_to_tune(space, tune.the_setting(space), names)) == ["zero3"]


def test_a_space_of_several_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SPACE.replace("batch_size: 32", "batch_size: [32, 64]"))
    with pytest.raises(UserError, match=r"choose one, as in setting\.batch_size=32"):
        tune.main([f"space={tmp_path / 'mine.yaml'}"])


def written(request: Request, seconds: Any) -> None:
    """The ledger of a request in which each leg takes `seconds(arm)` a step, and fails where that is None."""
    ledger = Ledger(request.folder)
    ledger.write_space(space_yaml(request))
    for trial, leg in request.plan.legs():
        took = seconds(leg.arm)
        outcome: Any = Failure("error", "no") if took is None else Measurement(
            step_seconds=[took * (1 + 0.001 * trial.repeat)] * 30, warmup_steps=1, data_seconds=None,
            samples_per_step=leg.setting.global_batch, peak_host_bytes=1, setup_seconds=1.0, train_seconds=1.0,
            eval_seconds=0.0, first_loss=1.0, final_loss=1.0,
        )  # fmt: skip
        ledger.add(request.plan.sweep, request.plan.space, trial, leg, outcome)


def test_a_search_ends_with_a_verdict_on_fresh_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overlap halves the step, and small buckets fail; the machinery of sweeps is stood in for by written ledgers."""
    (tmp_path / "mine.yaml").write_text(SPACE)
    requests: list[Request] = []

    def seconds(arm: Any) -> float | None:
        zero = getattr(arm, "config", {}).get("zero_optimization", {})
        if zero.get("reduce_bucket_size") == 100_000:
            return None
        return 0.5 if zero.get("stage") == 3 and zero.get("overlap_comm") else 1.0

    def run(request: Request, _: Any) -> Any:
        requests.append(request)
        written(request, seconds)
        return [], True

    monkeypatch.setattr(tune, "measure", run)
    monkeypatch.setattr(tune, "run_sweep", run)
    asked = [f"space={tmp_path / 'mine.yaml'}", f"results={tmp_path / 'ledger'}", "arm=zero3", "trials=8", "--json"]
    assert tune.main(asked) == 0
    record = json.loads(capsys.readouterr().out)
    (found,) = record["arms"]
    assert (found["tried"], found["found"], found["speedup_in_search"]) == (8, True, pytest.approx(2.0))
    assert found["config"]["config"]["zero_optimization"]["overlap_comm"] is True
    assert found["against_baseline"]["verdict"] == "helps"
    *rounds, verdict = (request.plan for request in requests)
    assert [len(plan.trials) for plan in rounds] == [2, 2]
    assert verdict.trials[0].protocol.steps == 50  # type: ignore[union-attr]
    assert {t.seed for t in verdict.trials}.isdisjoint({t.seed for plan in rounds for t in plan.trials})
    assert build_plan("mine", requests[0].space).trials == rounds[0].trials
