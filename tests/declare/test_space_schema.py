"""The JSON Schema of a space, read by an independent validator: what raybench takes passes, typing errors do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from raybench.__main__ import main as raybench
from raybench.declare.arms import DeepSpeedArm, FsdpArm, ScriptArm, TorchArm
from raybench.declare.protocol import Throughput, Train
from raybench.declare.setting import Setting
from raybench.declare.space import Question, Space
from raybench.declare.space_schema import space_schema
from raybench.declare.spacefile import SpaceFile
from tests.conftest import ROOT

SPACES = sorted([*(ROOT / "search_spaces").glob("*.yaml"), *(ROOT / "examples").rglob("*.yaml")])
GOOD = """
setting:
  {model: [lenet, hf/gpt2], dataset: digits, batch_size: "${setting.workers}", optimizer: sgd, memory_limit: 2GiB}
arms:
  ddp: {engine: torch}
  mine: {engine: deepspeed, config: {zero_optimization: {stage: 2}}, setting: {precision: bf16}}
  file: {engine: deepspeed, config: ds.json}
sizes: {small: {protocol: {steps: 5}, setting: {workers: 2}, arms: {ddp: {static_graph: true}}}}
"""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = space_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read(text: str) -> Any:
    """A space as raybench's own reader takes it: 1e-4 is a number."""
    return yaml.safe_load(re.sub(r"\b(\d+)e(-?\d+)\b", r"\1.0e\2", text))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_that_ships_is_valid(path: Path, validator: Draft202012Validator) -> None:
    content = SpaceFile.read(path).content
    assert [error.message for error in validator.iter_errors(json.loads(json.dumps(content)))] == []


def test_spaces_of_the_documents_are_valid(validator: Draft202012Validator) -> None:
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    texts = [text for page in pages for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(texts) > 5
    for text in texts:
        wrong = [error.message for error in validator.iter_errors(read(text))]
        assert wrong == [], text


def test_what_a_file_may_say_beside_plain_values_is_valid(validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(GOOD))] == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("setting:", "seting:"),
        ("batch_size", "batch_sise"),
        ("engine: torch", "engine: tourch"),
        ("zero_optimization", "zero_optimisation"),
        ("stage", "stages"),
        ("static_graph", "static_graf"),
        ("precision: bf16", "precision: bf15"),
        ("optimizer: sgd", "optimizer: [sgd, [adam]]"),
    ],
)
def test_a_mistyped_key_or_value_is_not(right: str, wrong: str, validator: Draft202012Validator) -> None:
    assert right in GOOD
    assert list(validator.iter_errors(yaml.safe_load(GOOD.replace(right, wrong, 1))))


def test_every_key_is_in_the_schema() -> None:
    schema = space_schema()
    assert set(schema["properties"]) == {*Space.model_fields, "sizes"}
    models: list[type[BaseModel]] = [Setting, Question, Throughput, Train, TorchArm, FsdpArm, DeepSpeedArm, ScriptArm]
    for model in models:
        assert set(schema["$defs"][model.__name__]["properties"]) == set(model.model_fields)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert raybench(["list", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == space_schema()
