"""A rank and its sampler: a process of its own, whose end ends no leg."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

from raybench.telemetry.window import NodeReading
from raybench.training.node.sampling import (
    SamplerProcess,
    SamplerReport,
    Telemetry,
    TelemetryReading,
    combined,
    node_name,
)
from raybench.training.ranks import Ranks
from tests.telemetry.test_contamination import CLEAN_GPU, CLEAN_HOST

ALONE = Ranks(0, 1, torch.device("cpu"), None)
SPIN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def read(telemetry: Telemetry, seconds: float) -> TelemetryReading:
    with telemetry.window():
        time.sleep(seconds)
    return telemetry.gather()


def sampler_of(telemetry: Telemetry) -> psutil.Process:
    assert telemetry._sampler is not None
    assert telemetry._sampler.pid is not None
    return psutil.Process(telemetry._sampler.pid)


def test_a_hog_beside_the_trial_is_seen_and_a_child_of_the_trial_is_none() -> None:
    with Telemetry(ALONE, wanted=True) as telemetry:
        telemetry.begin_leg()
        assert sampler_of(telemetry).ppid() == os.getpid()  # not in this interpreter
        child = subprocess.Popen([sys.executable, "-c", SPIN])
        try:
            reading = read(telemetry, 1.2)
        finally:
            child.kill()
            child.wait()
        assert reading.nodes is not None
        (node,) = reading.nodes
        assert node.host.own_cores > 0.05
        assert node.seconds == pytest.approx(1.2, abs=0.5)
        # In a session of its own and reparented, as somebody else's process is.
        hog = subprocess.run(
            [sys.executable, "-c", f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SPIN!r}], "
             "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        try:
            reading = read(telemetry, 1.2)
        finally:
            psutil.Process(int(hog.stdout)).kill()
        assert reading.foreign_cpu_cores is not None
        assert reading.foreign_cpu_cores > 0.2
        assert reading.contaminated == ["foreign CPU use"]


def test_a_sampler_that_is_killed_is_named_and_the_next_leg_has_another() -> None:
    with Telemetry(ALONE, wanted=True) as telemetry:
        telemetry.begin_leg()
        with telemetry.window():
            first = sampler_of(telemetry)
            first.kill()
        lost = telemetry.gather()
        assert lost == TelemetryReading(nodes=[], missing=["telemetry (the sampler's process died)"])
        telemetry.begin_leg()
        assert sampler_of(telemetry).pid != first.pid
        again = read(telemetry, 0.2)
        assert again.nodes
        assert again.missing == [text for text in again.missing or [] if not text.startswith("telemetry")]
        last = sampler_of(telemetry)
    assert not last.is_running()


def test_switched_off_it_starts_nothing_and_says_nothing() -> None:
    with Telemetry(ALONE, wanted=False) as telemetry:
        telemetry.begin_leg()
        assert read(telemetry, 0.0) == TelemetryReading()
    assert telemetry._sampler is None


def test_a_sampler_samples_ten_times_a_second_and_idles_for_nothing() -> None:
    sampler = SamplerProcess([os.getpid()], [])
    try:
        sampler.ask("begin")
        time.sleep(1.0)
        sampler.ask("end")
        reading = sampler.report().reading
        assert reading is not None
        assert reading.samples / reading.seconds > 5  # 16 on an idle machine
        assert reading.sampler_cpu_seconds < 0.1 * reading.seconds
        assert sampler.pid is not None
        process = psutil.Process(sampler.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(1.0)
        assert sum(process.cpu_times()[:2]) - before <= 0.02
        assert sampler.report() == SamplerReport(node_name(), None)
    finally:
        sampler.close()


def test_a_sampler_ends_with_its_rank() -> None:
    script = (
        "import os, signal; from raybench.training.node.sampling import SamplerProcess;"
        "print(SamplerProcess([os.getpid()], []).pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    sampler = psutil.Process(int(done.stdout)) if psutil.pid_exists(int(done.stdout)) else None
    if sampler is not None:
        sampler.wait(timeout=20)


def test_a_node_without_a_reading_leaves_the_sums_unknown() -> None:
    host, gpu = replace(CLEAN_HOST, foreign_cores=0.0), replace(CLEAN_GPU, energy_joules=5.0)
    reading, missing = NodeReading(1.0, 16, 0.01, host, [gpu]), ("GPU power (Not Supported)",)
    a, b = SamplerReport("a", reading, missing), SamplerReport("b", reading, missing)
    whole = combined([a, b])
    assert whole.nodes is not None
    assert [node.node for node in whole.nodes] == ["a", "b"]
    assert (whole.energy_joules, whole.foreign_cpu_cores, whole.contaminated) == (10.0, 0.0, [])
    assert whole.missing == ["GPU power (Not Supported)"]
    half = combined([a, SamplerReport("b", None, lost="the sampler's process died")])
    assert (half.energy_joules, half.foreign_cpu_cores, half.contaminated) == (None, None, None)
    assert half.missing == ["GPU power (Not Supported)", "telemetry (the sampler's process died)"]
