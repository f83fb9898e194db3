"""DeepSpeed configs: "auto" is the setting's, raybench's own keys are left out, and what is wrong is one message."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybench.declare import schema
from raybench.declare.arms import DeepSpeedArm
from raybench.declare.deepspeed_config import Resolved, resolve
from raybench.declare.setting import Setting
from raybench.declare.space import Space, load_space
from raybench.errors import UserError
from tests.declare.configs_of_people import CONFIGS

SETTING: dict[str, Any] = {"model": "lenet", "dataset": "digits", "batch_size": 16, "workers": 2, "device": "cpu"}


def resolved(config: dict[str, Any], setting: dict[str, Any] | None = None, **arm: Any) -> Resolved:
    return resolve(DeepSpeedArm(engine="deepspeed", config=config, **arm), Setting(**{**SETTING, **(setting or {})}))


def loaded(tmp_path: Path, config: Any, setting: dict[str, Any] | None = None, differs: tuple[str, ...] = ()) -> Space:
    space = {
        "setting": {**SETTING, **(setting or {})},
        "arms": {"ddp": {"engine": "torch"}, "theirs": {"engine": "deepspeed", "config": config}},
        "differs": list(differs),
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    return load_space(str(tmp_path / "space.yaml"))[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_as_people_have_it_plans_or_says_why_not(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    (tmp_path / "ds.json").write_text(json.dumps(config.content, indent=2))
    if config.expected == "plans":
        space = loaded(tmp_path, "ds.json", config.setting, config.differs)
        arm = space.arms["theirs"]
        assert isinstance(arm, DeepSpeedArm)
        whole = resolve(arm, Setting(**{**SETTING, **(config.setting or {})}))
        assert whole.problems == []
        assert '"auto"' not in json.dumps({**whole.config, "data_efficiency": None})
        return
    with pytest.raises(UserError) as refusal:
        loaded(tmp_path, "ds.json", config.setting, config.differs)
    assert config.expected in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_auto_is_the_settings_value() -> None:
    setting = {
        "precision": "fp16", "mixed_precision": "cast", "gradient_clipping": 0.5,
        "optimizer": {"name": "adamw", "lr": 0.004, "betas": [0.8, 0.9], "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 7, "total_steps": 90}, "model_options": {"hidden_size": 64},
    }  # fmt: skip
    found = resolved(
        {
            "train_batch_size": "auto", "gradient_clipping": "auto",
            "fp16": {"enabled": "auto", "initial_scale_power": "auto", "hysteresis": 2}, "bf16": {"enabled": "auto"},
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "weight_decay": "auto"}},
            "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": "auto", "warmup_min_lr": "auto",
                                                             "warmup_num_steps": "auto", "total_num_steps": "auto"}},
            "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
                                  "stage3_param_persistence_threshold": "auto", "overlap_comm": "auto"},
        },
        setting,
    )  # fmt: skip
    assert found.problems == []
    config = found.config
    assert (config["train_batch_size"], config["gradient_clipping"]) == (16, 0.5)
    assert config["fp16"]["enabled"] is True
    assert (config["fp16"]["initial_scale_power"], config["fp16"]["hysteresis"]) == (16, 2)
    assert "bf16" not in config
    assert config["optimizer"]["params"] == {"lr": 0.004, "betas": [0.8, 0.9], "weight_decay": 0.1}
    assert config["scheduler"]["params"] == {
        "warmup_max_lr": 0.004, "warmup_min_lr": 0, "warmup_num_steps": 7, "total_num_steps": 90,
    }  # fmt: skip
    assert config["zero_optimization"] == {
        "stage": 3, "reduce_bucket_size": 4096, "stage3_prefetch_bucket_size": 3686,
        "stage3_param_persistence_threshold": 640,
    }  # fmt: skip
    assert any("overlap_comm" in note for note in found.notes)


@pytest.mark.parametrize(
    ("setting", "section"),
    [
        ({}, {}),
        ({"precision": "bf16"}, {"torch_autocast": "bfloat16"}),
        ({"precision": "fp16"}, {"torch_autocast": "float16"}),
        ({"precision": "bf16", "mixed_precision": "cast"}, {"bf16": None}),
        ({"precision": "fp16", "mixed_precision": "cast"}, {"fp16": None}),
    ],
)
@pytest.mark.parametrize(
    "config", [{}, {"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}}, {"torch_autocast": {"enabled": "auto"}}]
)
def test_precision_is_the_settings_whether_auto_or_nothing_is_written(
    config: dict[str, Any], setting: dict[str, Any], section: dict[str, Any]
) -> None:
    whole = resolved(config, setting).config
    on = {name: whole[name].get("dtype") for name in ("bf16", "fp16", "torch_autocast") if name in whole}
    assert on == section
    assert all(whole[name]["enabled"] is True for name in section)


def test_what_raybench_owns_is_left_out_with_a_note_where_it_agrees() -> None:
    config = {
        "train_batch_size": 16, "gradient_accumulation_steps": 1.0, "gradient_clipping": 0, "steps_per_print": 10,
        "wall_clock_breakdown": True, "tensorboard": {"enabled": True}, "wandb": {"enabled": False},
    }  # fmt: skip
    found = resolved(config)
    assert found.problems == []
    assert found.config == resolved({}).config
    assert [note.split()[0] for note in found.notes] == [
        "config.steps_per_print", "config.wall_clock_breakdown", "config.tensorboard",
    ]  # fmt: skip


def test_all_refusals_come_in_one_message_each_with_its_line(tmp_path: Path) -> None:
    text = "{\n// of ours\n'x': 1}".replace("'x'", '"zero_optimisation"')
    (tmp_path / "commented.json").write_text(text)
    with pytest.raises(UserError, match="did you mean zero_optimization"):
        loaded(tmp_path, "commented.json")
    (tmp_path / "ds.json").write_text(
        '{\n\t"train_batch_size": 99,\n\t"fp16": true,\n\t"zero_optimization": {\n"stge": 1},\n'
        '"aio": {"thread_count": 1}}'
    )
    with pytest.raises(UserError) as refusal:
        loaded(tmp_path, "ds.json")
    told = str(refusal.value)
    for line, words in (
        (2, "train_batch_size: is 99"),
        (3, "fp16: is a section"),
        (5, "stge: unknown key; did you mean stage?"),
        (6, "thread_count: unknown key; DeepSpeed 0.19.8 calls it intra_op_parallelism"),
    ):
        assert f"[{tmp_path / 'ds.json'}:{line}]" in told
        assert words in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "this is list"),
        ('{"fp16": {}, "fp16": {}}', "fp16 is written twice"),
        ("nothing", "not valid JSON"),
        ('{"gradient_clipping": NaN}', "finite"),
        ("\xff", "cannot be read"),
        ('{"a": ' * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "ds.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words):
        loaded(tmp_path, "ds.json")


def test_a_file_that_is_not_there_is_named_where_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"space\.yaml:\d+: arms\.theirs\.config: no file 'no\.json'"):
        loaded(tmp_path, "no.json")


def test_an_override_changes_a_key_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    loaded(tmp_path, "ds.json")
    _, space = load_space(str(tmp_path / "space.yaml"), {"arms.theirs.config.zero_optimization.stage": "2"})
    assert space.arms["theirs"].config == {"zero_optimization": {"stage": 2}}


def test_the_shipped_schema_is_that_of_the_pinned_deepspeed() -> None:
    assert schema.schema()["version"] == version("deepspeed")


@pytest.mark.slow
def test_the_shipped_schema_is_what_the_installed_deepspeed_says() -> None:
    from raybench.child import ask_child

    assert ask_child(["raybench.training.probes.deepspeed_schema"], 180) == json.loads(schema._SHIPPED.read_text())


def test_an_arm_of_another_version_is_checked_against_that_versions_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    schema.schema.cache_clear()
    theirs = {"elasticity": {"enabled": True}, "optimizer": {"type": "OneBitAdam", "params": {"freeze_step": 2}}}
    assert [problem.place[1] for problem in resolved(theirs).problems] == ["elasticity", "optimizer"]
    not_known = resolved(theirs, packages={"deepspeed": "0.17.1"})
    assert not_known.problems == []
    assert {key: not_known.config[key] for key in theirs} == theirs
    assert "0.17.1 are not known here" in not_known.notes[0]
    assert not_known.notes[0].endswith("not checked: elasticity")
    known = {**schema.schema(), "version": "0.17.1", "removed": {}}
    known["keys"] = {**known["keys"], "elasticity": {"kinds": ["mapping"], "free": True}}
    (tmp_path / "raybench").mkdir()
    (tmp_path / "raybench/deepspeed_schema-0.17.1.json").write_text(json.dumps(known))
    schema.schema.cache_clear()
    after_a_leg = resolved({**theirs, "zero_optimisation": {}}, packages={"deepspeed": "0.17.1"})
    assert [problem.place[1] for problem in after_a_leg.problems] == ["zero_optimisation", "optimizer"]
    schema.schema.cache_clear()
