"""Legs whose arm is a script: its steps, what it reports, and every way in which it fails, as outcomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench.declare.plan import build_plan
from raybench.declare.space import Space
from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.training.node.sampling import Telemetry
from raybench.training.ranks import Ranks
from raybench.training.script_leg import run_script

PLAIN = """
import sys
import torch
from raybench import steps
torch.manual_seed(int(sys.argv[2]))
model = torch.nn.Linear(8, 2)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
recorder = steps.Recorder(4, model=model, optimizer=optimizer)
for _ in range(int(sys.argv[1])):
    loss = model(torch.ones(4, 8)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    recorder.step(loss)
"""
RANKS = Ranks(0, 1, torch.device("cpu"), None)


def outcome(tmp_path: Path, code: str, *words: str, **more: Any) -> Outcome:
    (tmp_path / "script.py").write_text(code)
    arm = {"engine": "script", "command": [sys.executable, "script.py", *words], "folder": str(tmp_path), **more}
    space = Space.model_validate(
        {
            "setting": {"device": "cpu"}, "arms": {"one": arm, "two": arm}, "leg_timeout_seconds": 120,
            "protocol": {"warmup_steps": 2, "steps": 6, "rounds": 1, "telemetry": False}, "repeats": 1,
        }
    )  # fmt: skip
    trial = build_plan("scripts", space).trials[0]
    return run_script(trial, trial.legs[0], RANKS, Telemetry(RANKS, False))


def test_the_steps_of_a_plain_loop_and_its_facts(tmp_path: Path) -> None:
    found = outcome(tmp_path, PLAIN, "{total_steps}", "{seed}")
    assert isinstance(found, Measurement), found
    assert (len(found.step_seconds), found.warmup_steps, found.samples_per_step) == (8, 2, 4)
    assert min(found.step_seconds) > 0
    assert sum(found.step_seconds) == pytest.approx(found.train_seconds)
    assert found.step_losses is not None
    assert found.step_losses[0] == found.first_loss == found.facts["first_loss"]
    assert found.final_loss is not None
    assert found.final_loss < found.step_losses[0]
    assert found.data_seconds is None
    assert found.facts["timed"] == "its own steps"
    assert (found.facts["num_parameters"], found.facts["parameter_dtype"]) == (18, "float32")
    assert found.facts["optimizer"] == {
        "class": "AdamW", "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01,
    }  # fmt: skip
    assert (found.facts["workers"], found.facts["global_batch"]) == (1, 4)
    assert found.facts["informative"]["not_known"] == ["initial weights", "data", "autocast"]


def test_losses_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    losses = [[0, None], [1, "x"], [2, 0.5], ["", 1], [9, 1.0], 7, [3]]
    report = json.dumps({"step_seconds": [0.1] * 6, "losses": losses, "facts": {}})
    found = outcome(tmp_path, f"{WRITE}, 'w').write({report!r})")
    assert isinstance(found, Measurement), found
    assert (found.first_loss, found.final_loss, found.step_losses) == (None, 0.5, None)


def test_without_steps_the_whole_command_is_timed(tmp_path: Path) -> None:
    found = outcome(tmp_path, "import time; time.sleep(0.3)")
    assert isinstance(found, Measurement), found
    assert found.facts["timed"] == "the whole command"
    assert (len(found.step_seconds), found.warmup_steps, found.first_loss) == (1, 0, None)
    assert 0.3 < found.step_seconds[0] < 20
    assert "optimizer" in found.facts["informative"]["not_known"]


WRITE = "import os; open(os.environ['RAYBENCH_STEPS_FOLDER'] + '/0-1.json'"
ODD = json.dumps({"step_seconds": [1], "facts": {}, "losses": [], "setup_seconds": "x"})
# As torchrun ends.
LAUNCHED = """
print("[rank1]: ImportError: needs accelerate", "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
      "train.py FAILED", sep="\\n")
"""
INVALID = """
print("[rank0]: pydantic.ValidationError: 1 validation error for Zero", "[rank0]: stgae", sep="\\n")
print("[rank0]:   Extra inputs are not permitted", "[rank0]:     For further information visit", sep="\\n")
print("torch.distributed.elastic.multiprocessing.errors.ChildFailedError:")
"""
ABORTED = """
print("torch.distributed.elastic.multiprocessing.errors.ChildFailedError:")
print("  exitcode  : -6 (pid: 7)", "  traceback : Signal 6 (SIGABRT) received by PID 7", "=====", sep="\\n")
"""
RECORD = "from raybench import steps\nrecorder = steps.Recorder(4)\n"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("raise SystemExit(3)", "error", "exit code 3; it printed nothing"),
        ("raise ValueError('no such file')", "error", "exit code 1: ValueError: no such file"),
        ("import os; os.kill(os.getpid(), 9)", "crashed", "SIGKILL"),
        (LAUNCHED + "raise SystemExit(1)", "error", "exit code 1: ImportError: needs accelerate"),
        (INVALID + "raise SystemExit(1)", "error", "for Zero stgae Extra inputs are not permitted"),
        ("import argparse; argparse.ArgumentParser('t.py').parse_args(['--no'])", "error", "t.py: error: unrecognized"),
        (ABORTED + "raise SystemExit(1)", "error", "exit code 1: Signal 6 (SIGABRT) received by PID 7"),
        (RECORD + "for _ in range(9): recorder.step(1.0)\nrecorder.end()\nraise SystemExit(4)", "error",
         "exit code 4; it printed nothing; it had recorded 9 steps"),
        ("raise MemoryError('no room')", "out_of_memory", "MemoryError: no room"),
        ("print('torch.OutOfMemoryError: CUDA out of memory.'); raise SystemExit(1)", "out_of_memory", "CUDA out of"),
        ("import os; os.write(2, bytes(range(256)) * 999); raise SystemExit(2)", "error", "exit code 2"),
        (RECORD + "recorder.step(1.0)", "invalid_config", "recorded 1 steps: with 2 warm-up steps 4 are the least"),
        (RECORD + "for _ in range(9): recorder.step(float('nan'))", "not_finite", "the loss of step 0 is nan"),
        (WRITE + ", 'wb').write(b'\\xff{')", "error", "0-1.json"),
        (WRITE + ", 'w').write('{\"step_seconds\": [-1]}')", "error", "step_seconds are not seconds"),
        (WRITE + f", 'w').write({ODD!r})", "error", "0-1.json: ValueError"),
    ],
)  # fmt: skip
def test_every_way_to_fail_is_a_failure_with_its_cause(tmp_path: Path, code: str, kind: str, words: str) -> None:
    found = outcome(tmp_path, code)
    assert isinstance(found, Failure), found
    assert found.kind == kind, found
    assert words in found.message
    assert found.message.isprintable()
    assert len(found.message) < 2500


def test_environment_folder_and_arguments_reach_the_script(tmp_path: Path) -> None:
    code = (
        "import os, sys\nassert sys.argv[1:] == ['2', 'fp32', '{X}', '0.001'], sys.argv\n"
        "assert os.environ['MINE'] == '5'\nassert 'OMP_NUM_THREADS' not in os.environ\n"
        "assert not {'RANK', 'MASTER_ADDR', 'WORLD_SIZE'} & set(os.environ)\n"
        f"assert os.path.samefile(os.getcwd(), {str(tmp_path)!r})\n"
    )
    words = ["{warmup_steps}", "{precision}", "{X}", "{optimizer.lr}"]
    found = outcome(tmp_path, code, *words, environment={"MINE": 5, "OMP_NUM_THREADS": ""})
    assert isinstance(found, Measurement), found
