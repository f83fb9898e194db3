"""Folding made traces: each moment belongs to one part, and the parts add up to the step."""

from __future__ import annotations

from typing import Any

import pytest

from raybench.training.timeline import fold, without_overhead

NODE = "autograd::engine::evaluate_function: "


def event(name: str, start: float, length: float, cat: str = "cpu_op", tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length, "tid": tid}


def mark(name: str, start: float, length: float) -> dict[str, Any]:
    return event(f"raybench::{name}", start, length, "user_annotation")


def step(start: float, *inside: dict[str, Any]) -> list[dict[str, Any]]:
    """One step of 100 us: data 10, forward 30, backward 40, step 20."""
    moved = [{**one, "ts": one["ts"] + start} for one in inside]
    phases = [("data", 0, 10), ("forward", 10, 30), ("backward", 40, 40), ("step", 80, 20)]
    return [*(mark(name, start + at, length) for name, at, length in phases), *moved]


def folded(*inside: dict[str, Any]) -> Any:
    """A trace of two such steps and the wait that ends them; the first is left out."""
    return fold([*step(0.0), *step(100.0, *inside), mark("data", 200.0, 1.0)], 1)


def microseconds(parts: dict[str, float]) -> dict[str, float]:
    return {name: pytest.approx(value * 1e6) for name, value in parts.items()}


def test_on_a_cpu_the_innermost_range_that_has_a_meaning_counts() -> None:
    table = folded(
        event("aten::randn", 1, 5),  # in the loader: data
        event("aten::linear", 12, 10), event("aten::addmm", 14, 6), event("aten::relu", 25, 4),
        event(NODE + "AddmmBackward0", 41, 14), event("AddmmBackward0", 42, 8), event("aten::mm", 43, 5),
        event(NODE + "torch::autograd::AccumulateGrad", 56, 20), event("torch::autograd::AccumulateGrad", 60, 10),
        event("aten::add_", 62, 3), event("c10d::allreduce_", 66, 2),
        event("Optimizer.step#SGD.step", 82, 10, "user_annotation"), event("aten::add_", 84, 3),
        event("aten::clamp", 94, 2),
    )  # fmt: skip
    assert table.step_seconds == pytest.approx(100e-6)
    assert sum(table.parts.values()) == pytest.approx(table.step_seconds)
    assert microseconds(table.parts) == {
        "data": 10, "forward": 30 - 14, "matrix products": 10 + 5, "other operators": 4, "optimizer": 10,
        "backward": 40 - 14 - 20 + 3, "gradient hooks": 6 + 20 - 2, "communication": 2, "engine's step": 10,
    }  # fmt: skip
    assert table.kernels is None
    assert table.busy_share is None


def test_communication_in_the_background_is_exposed_where_the_host_does_nothing_else() -> None:
    table = folded(event("aten::mm", 42, 10), event("gloo:all_reduce", 45, 30, tid=2))
    assert microseconds({"communication": table.parts["communication"]}) == {"communication": 23}
    assert table.overlapped_seconds == pytest.approx(7e-6)
    assert sum(table.parts.values()) == pytest.approx(100e-6)


def test_with_an_accelerator_a_moment_is_what_it_computes_else_what_the_host_does() -> None:
    table = folded(
        event("aten::linear", 12, 10), event("cudaLaunchKernel", 15, 2, "cuda_runtime"),
        event(NODE + "MulBackward0", 50, 10, tid=3),  # autograd's own thread, before its node: a hook
        event("cudaStreamSynchronize", 85, 10, "cuda_runtime"),
        event("sm80_xmma_gemm_f32", 20, 10, "kernel", tid=7), event("vectorized_elementwise", 28, 6, "kernel", tid=7),
        event("ncclDevKernel_AllReduce", 32, 12, "kernel", tid=8), event("Memcpy HtoD", 2, 3, "gpu_memcpy", tid=7),
    )  # fmt: skip
    assert sum(table.parts.values()) == pytest.approx(100e-6)
    assert microseconds(table.parts) == {
        "matrix products": 10, "other operators": 4, "communication": 10, "copies": 3, "data": 7,
        "launching operators": 8, "gradient hooks": 10, "forward": 2, "backward": 26, "waiting": 10,
        "engine's step": 10,
    }  # fmt: skip
    assert table.overlapped_seconds == pytest.approx(2e-6)
    assert table.busy_share == pytest.approx(0.27)
    assert table.kernels == 3
    assert sum((table.host or {}).values()) == pytest.approx(100e-6)
    assert (table.host or {})["launching operators"] == pytest.approx(10e-6)


def test_micro_batches_of_a_step_are_one_step() -> None:
    events = [*step(0.0), *step(100.0), *step(200.0), *step(300.0), mark("data", 400.0, 1.0)]
    assert fold(events, 2).step_seconds == pytest.approx(200e-6)
    with pytest.raises(ValueError, match="holds 1 steps"):
        fold(events[:8] + events[-1:], 2)


def test_the_profilers_cost_is_taken_out_by_events_and_not_by_length() -> None:
    """A sleep of 50 ms is one event; 99 operators of 5 us were slowed to 10 each: what is left is 50 ms and 495 us."""
    left = without_overhead(
        {"gradient hooks": 50.005e-3, "other operators": 990e-6},
        {"gradient hooks": 1, "other operators": 99},
        50.495e-3,
    )
    assert left["gradient hooks"] == pytest.approx(50e-3, rel=1e-6)
    assert sum(left.values()) == pytest.approx(50.495e-3)
    assert without_overhead({"data": 1.0}, {}, 2.0) == {"data": 2.0}


def test_what_no_profiler_costs_is_taken_out_of_all_parts_alike() -> None:
    """Another program made all of it twice as long: the parts of 100 short events are not thereby nothing."""
    left = without_overhead({"communication": 1.0, "optimizer": 0.1}, {"communication": 1, "optimizer": 99}, 0.55)
    assert left == pytest.approx({"communication": 0.5, "optimizer": 0.05}, rel=0.02)
