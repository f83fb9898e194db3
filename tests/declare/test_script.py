"""Scripts as arms: what a space may say of them, and what is wrong in one line before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.declare.arms import ScriptArm
from raybench.declare.plan import build_plan
from raybench.declare.script import Place, words
from raybench.declare.setting import Setting
from raybench.declare.space import Space, load_space
from raybench.errors import UserError

COMMAND = "python -m trainer --ranks {workers} --lr {lr} --config '{{not a name}}' --port {main_port}"


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("")


def loaded(tmp_path: Path, arm: dict[str, Any], **more: Any) -> Space:
    arms = {"plain": {"engine": "script", "command": "python train.py"}, "other": {"engine": "script", **arm}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"setting": {"workers": 2}, "arms": arms, **more}))
    return load_space(str(tmp_path / "space.yaml"))[1]


def test_where_every_arm_is_a_script_model_and_data_need_no_names(tmp_path: Path) -> None:
    space = loaded(tmp_path, {"command": COMMAND})
    plan = build_plan("scripts", space)
    trial = plan.trials[0]
    assert (trial.setting.task, trial.setting.model, trial.setting.batch_size) == ("script", "script", 2)
    assert (trial.label, trial.family) == ("script w2", "script")
    arm = space.arms["other"]
    assert isinstance(arm, ScriptArm)
    told = words(arm, trial.setting, trial.protocol, Place(seed=7, main_port=4321))
    assert told == [
        "python", "-m", "trainer", "--ranks", "2", "--lr", "0.001", "--config", "{{not a name}}", "--port", "4321",
    ]  # fmt: skip


def test_a_space_that_has_run_may_name_what_is_not_here(tmp_path: Path) -> None:
    loaded(tmp_path, {"command": "python train.py"})
    Path("train.py").unlink()
    with pytest.raises(UserError, match=r"no file train\.py in"):
        load_space("space.yaml")
    assert load_space("space.yaml", has_run=True)[1].arms


def test_a_script_stands_beside_engines_that_train_the_setting(tmp_path: Path) -> None:
    arms = {"ddp": {"engine": "torch"}, "mine": {"engine": "script", "command": "python train.py {model} {batch_size}"}}
    setting = {"model": "lenet", "dataset": "digits", "batch_size": 32}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"setting": setting, "arms": arms}))
    space = load_space(str(tmp_path / "space.yaml"))[1]
    arm = space.arms["mine"]
    assert isinstance(arm, ScriptArm)
    assert words(arm, Setting(**setting), space.protocol, Place())[-2:] == ["lenet", "32"]


@pytest.mark.parametrize(
    ("arm", "more", "message"),
    [
        ({"command": ""}, {}, "it is empty"),
        ({"command": []}, {}, "it is empty"),
        ({}, {}, "'command' is missing"),
        ({"command": "python 'train.py"}, {}, "No closing quotation"),
        ({"command": "python train.py {worker}"}, {}, "unknown {worker}; did you mean workers"),
        ({"command": "no-such-program-here"}, {}, "program 'no-such-program-here' was not found"),
        ({"command": "./train"}, {}, "program './train' was not found"),
        ({"command": "torchrun --nproc-per-node 2 trian.py --steps 4"}, {}, "no file trian.py in "),
        ({"command": f"python {'x' * 999}.py"}, {}, "no file xxx"),
        ({"command": "python"}, {"setting": {"workers": "two"}}, "workers: input should be a valid integer"),
        ({"command": "python"}, {"setting": {"workers": 0}}, "workers: input should be greater than 0"),
        ({"command": "python", "folder": "no/such/folder"}, {}, "is no folder here"),
        ({"command": "python a\0b"}, {}, "null byte"),
        ({"command": "python", "environment": {"A": [1]}}, {}, "environment"),
        ({"command": "python", "zero": 1}, {}, "unknown key 'zero'"),
        ({"command": "python"}, {"protocol": {"kind": "train", "epochs": 1}}, "records steps alone"),
        ({"command": "python"}, {"protocol": {"evaluate": True}}, "records steps alone"),
        ({"command": "python"}, {"setting": {"batch_size": "max", "memory_limit": "1GiB"}}, "largest batch"),
        ({"engine": "torch"}, {"setting": {"task": "script"}}, "no model to train"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arm: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        loaded(tmp_path, arm, **more)
    assert message in str(refusal.value)
    assert "space.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)
