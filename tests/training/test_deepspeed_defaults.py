"""The installed DeepSpeed's defaults are those raybench was written against: a silent change of one is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raybench.declare.arms import DeepSpeedArm
from raybench.declare.deepspeed_config import added_config
from raybench.declare.setting import Setting
from tests.conftest import ROOT, command_environment

RECORDED = Path(__file__).with_name("deepspeed_defaults.json")


@pytest.mark.slow
def test_no_default_changed_since_it_was_recorded(tmp_path: Path) -> None:
    found_file = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.training.deepspeed_defaults", str(found_file)]
    environment = command_environment(DS_ACCELERATOR="cpu")
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=True)
    found, recorded = (json.loads(file.read_text()) for file in (found_file, RECORDED))
    assert len(recorded) > 200
    changed = {
        name: (recorded.get(name, "not there"), found.get(name, "not there"))
        for name in sorted({*found, *recorded})
        if found.get(name, "not there") != recorded.get(name, "not there")
    }
    assert not changed, f"(recorded, installed): {changed}"


def test_what_deepspeed_does_unasked_is_written_out() -> None:
    """The defaults that would make a DeepSpeed arm another experiment, or slower, than the other arms."""
    recorded = json.loads(RECORDED.read_text())
    setting = Setting(model="lenet", dataset="digits", batch_size=8)
    added = added_config(DeepSpeedArm(engine="deepspeed", zero=1), setting)
    assert recorded["gradient_clipping"] == 1.0
    assert added["gradient_clipping"] == 0.0
    assert recorded["timers_config.enabled"] is True
    assert added["timers"]["throughput"]["enabled"] is False
    assert recorded["zero_allow_untested_optimizer"] is False
    assert added["zero_allow_untested_optimizer"] is True
    assert recorded["zero_force_ds_cpu_optimizer"] is True
    assert added["zero_force_ds_cpu_optimizer"] is False
