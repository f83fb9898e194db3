"""What MLflow is shown of ledger rows: parameters that fit together, metrics and curves computed by hand."""

from __future__ import annotations

import json

import pytest

from raybench.tracking import runs
from tests.analysis.ledgers import leg


def test_all_arms_have_the_same_parameters() -> None:
    config = {"deepspeed_config": {"zero_optimization": {"stage": 3}}, "offload": "optimizer"}
    facts = {"optimizer": {"class": "AdamW", "lr": 0.001}, "autocast": "off", "image_shape": [3, 32, 32]}
    torch = runs.arm_params(leg("ddp", facts={}))
    deepspeed = runs.arm_params(leg("zero3", engine="deepspeed", arm_config=json.dumps(config), facts=facts))
    assert list(torch) == list(deepspeed)
    assert (torch["zero_stage"], deepspeed["zero_stage"]) == ("none", "3")
    assert (torch["optimizer"], deepspeed["optimizer"]) == ("none", "AdamW")
    assert deepspeed["image_size"] == "32"
    assert all(isinstance(value, str) and value for value in (*torch.values(), *deepspeed.values()))


def test_the_metrics_of_a_leg_are_those_of_its_measured_steps() -> None:
    row = leg("ddp", seconds=[9.0, 1.0, 3.0], warmup_steps=1, data_seconds=[9.0, 0.5, 0.5], samples_per_step=8)
    found = runs.leg_metrics(row)
    assert found["step_ms_mean"] == 2000.0
    assert found["samples_per_second"] == 4.0
    assert found["data_wait_share"] == 0.25
    assert "forward_ms_mean" not in found
    assert "tokens_per_second" not in found
    assert runs.leg_metrics(row | {"tokens_per_step": 4096})["tokens_per_second"] == 2048.0
    assert runs.leg_metrics(leg("ddp", failure_kind="error")) == {}


def test_an_arm_has_the_means_of_its_legs_and_counts_them() -> None:
    rows = [leg("a", 0, seconds=1.0), leg("a", 1, seconds=3.0), leg("a", 2, failure_kind="timeout")]
    found = runs.arm_metrics(rows)
    assert found["step_ms_mean"] == 2000.0
    assert found["samples_per_second"] == 4.0  # 8 images in a mean step of 2 s
    assert runs.arm_metrics([row | {"tokens_per_step": 4096} for row in rows])["tokens_per_second"] == 2048.0
    rows[1]["samples_per_step"] = 32  # another batch: the mean of 8 a second and of 10.7
    assert runs.arm_metrics(rows)["samples_per_second"] == pytest.approx((8 + 32 / 3) / 2, rel=1e-5)
    assert (found["legs_measured"], found["legs_failed"]) == (2, 1)
    assert runs.arm_metrics(rows[2:]) == {"legs_measured": 0, "legs_failed": 1}


@pytest.mark.parametrize("num_steps", [1, 99, 100, 101, 12_345])
def test_a_thinned_curve_keeps_ends_and_mean(num_steps: int) -> None:
    steps = [0.001 * (1 + i % 7) for i in range(num_steps)]
    (points,) = runs.leg_curves(leg("ddp", seconds=steps)).values()
    assert len(points) == min(num_steps, runs.CURVE_POINTS)
    assert points[-1][0] == num_steps - 1
    assert points[-1][1] == pytest.approx(sum(steps))
    lengths = [end - begin for (begin, _, _), (end, _, _) in zip([(-1, 0.0, 0.0), *points], points, strict=False)]
    assert sum(n * value for n, (_, _, value) in zip(lengths, points, strict=True)) == pytest.approx(1000 * sum(steps))
    if num_steps <= runs.CURVE_POINTS:
        assert [value for _, _, value in points] == [1000 * step for step in steps]


def test_losses_and_epochs_are_curves_too() -> None:
    row = leg("ddp", seconds=[1.0, 2.0, 3.0], step_losses=[3.0, 2.0, 1.0], epoch_seconds=[2.0, 4.0])
    row |= {"epoch_accuracy": [None, 0.5], "epoch_loss": [2.5, 1.5]}
    found = runs.leg_curves(row)
    assert found["steps/loss"] == [(0, 1.0, 3.0), (1, 3.0, 2.0), (2, 6.0, 1.0)]
    assert found["epochs/accuracy"] == [(1, 6.0, 0.5)]  # an epoch that was not evaluated has no point
    assert found["epochs/loss"] == [(0, 2.0, 2.5), (1, 6.0, 1.5)]


def test_a_dataset_is_named_by_its_own_digest_where_it_states_one() -> None:
    plain = runs.dataset(leg("ddp", facts={"image_shape": [3, 32, 32]}))
    assert (plain["name"], plain["digest"]) == ("digits", "digits-3x32x32")
    assert runs.dataset(leg("ddp", facts={"dataset_digest": "a" * 64}))["digest"] == "a" * 36


def test_parameters_come_from_the_config_that_ran() -> None:
    built = {
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}, "offload_param": {"device": "none"}}
    }
    spelt = json.dumps({"zero": None, "offload": None, "config": {"anything": "auto"}, "deepspeed_config": built})
    params = runs.arm_params(leg("zero2", engine="deepspeed", arm_config=spelt))
    assert (params["zero_stage"], params["offload"]) == ("2", "optimizer: nvme")


def test_a_sweep_is_named_and_has_parameters() -> None:
    rows = [leg("ddp", protocol='{"kind": "throughput", "steps": 30}'), leg("zero1", model="vit")]
    assert runs.sweep_name(rows[0]) == "friday"
    assert runs.sweep_name(leg("ddp", sweep="459a4a6a")) == "cnns 2026-01-01 00:00"
    params = runs.sweep_params(rows)
    assert params["arms"] == "ddp, zero1"
    assert (params["baseline"], params["models"], params["protocol.steps"]) == ("ddp", "net, vit", "30")
    assert "protocol.epochs" not in params


def test_telemetry_has_the_names_of_system_metrics() -> None:
    gpu = {"utilization": {"trace": [10.0, 20.0]}, "power_watts": {"trace": [300.0]}, "temperature_celsius": None}
    host = {"cores": 4, "own_cores": 1.5, "foreign_cores": 0.5, "foreign_cores_trace": [0.5, 0.5]}
    node = {"gpus": [gpu], "host": host, "seconds": 2.0}
    row = leg("ddp", seconds=[5.0, 1.0, 1.0], warmup_steps=1, telemetry=json.dumps([node]))
    found = runs.system_curves(row)
    assert found["system/gpu_0_utilization_percentage"] == [(0, 5.5, 10.0), (1, 6.5, 20.0)]
    assert found["system/gpu_0_power_usage_watts"] == [(0, 6.0, 300.0)]
    assert found["system/cpu_utilization_percentage"] == [(0, 6.0, 50.0)]
    assert "system/gpu_0_temperature_celsius" not in found
    two = runs.system_curves({**row, "telemetry": json.dumps([node, node])})
    assert "system/node_1/gpu_0_power_usage_watts" in two
    assert runs.system_curves(leg("ddp")) == {}
