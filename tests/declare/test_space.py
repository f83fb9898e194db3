"""Spaces: overrides, defaults, and that every mistake is one line which says where and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raybench import __main__, cli
from raybench.declare.plan import build_plan
from raybench.declare.setting import Setting
from raybench.declare.space import Space, load_space
from raybench.declare.spacefile import known_spaces
from raybench.errors import UserError
from tests.conftest import ROOT

GOOD = """\
question: {margin: 0.05}
setting:
  model: lenet
  dataset: digits
  batch_size: [32, 64]
  workers: 2
arms:
  ddp: {engine: torch}
  zero1: {engine: deepspeed, config: {zero_optimization: {stage: 1}, gradient_predivide_factor: 1e-4}}
protocol: {steps: 10}
repeats: 3
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def refused(tmp_path: Path, text: str, **overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_space(write(tmp_path, text), {key.replace("__", "."): value for key, value in overrides.items()})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_file_and_its_overrides(tmp_path: Path) -> None:
    name, space = load_space(write(tmp_path, GOOD), {"setting.batch_size": "[8,16,24]", "question.alpha": "1e-2"})
    assert name == "mine"
    assert space.question.margin == 0.05
    assert space.question.alpha == 0.01
    assert [values["batch_size"] for values in space.settings()] == [8, 16, 24]
    assert space.baseline == "ddp"
    assert space.arms["zero1"].config["gradient_predivide_factor"] == 1e-4  # YAML 1.1 alone would make a string of it
    assert space.protocol.steps == 10


def test_the_product_of_the_axes(tmp_path: Path) -> None:
    _, space = load_space(write(tmp_path, GOOD), {"setting.workers": "[1,2]", "setting.model": "[lenet,resnet18]"})
    combinations = {(v["model"], v["batch_size"], v["workers"]) for v in space.settings()}
    assert len(combinations) == len(list(space.settings())) == 8


def test_the_image_size_is_the_datasets_unless_given() -> None:
    assert Setting(model="lenet", dataset="cifar10", batch_size=8).image_size == 32
    assert Setting(model="lenet", dataset="cifar10", batch_size=8, image_size=64).image_size == 64


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("model: lenet", "modle: lenet", ["mine.yaml:3", "setting.modle", "did you mean model"]),
        ("batch_size: [32, 64]", "batch_size: []", ["mine.yaml:5", "setting.batch_size", "empty"]),
        ("batch_size: [32, 64]", "batch_size: many", ["mine.yaml:5", "setting.batch_size", "integer", "'many'"]),
        ("batch_size: [32, 64]", "batch_size: 33", ["mine.yaml:2", "33", "not divisible by workers 2"]),
        ("batch_size: [32, 64]", "batch_size: 4000", ["4000", "1437 images"]),
        ("batch_size: [32, 64]", "batch_size: [32, 32]", ["mine.yaml:5", "twice"]),
        ("model: lenet", "model: resnet81", ["mine.yaml:3", "resnet81", "resnet18"]),
        ("dataset: digits", "dataset: cifar11", ["mine.yaml:4", "cifar11", "cifar10"]),
        ("  ddp: {engine: torch}\n", "", ["mine.yaml:7", "arms", "two arms"]),
        ("engine: torch", "engine: torhc", ["mine.yaml:8", "arms.ddp", "torhc", "did you mean torch"]),
        ("repeats: 3", "baseline: dpp", ["baseline", "'dpp'", "ddp, zero1"]),
        ("repeats: 3", "repeat: 3", ["mine.yaml:11", "'repeat'", "repeats"]),
        ("repeats: 3", "repeats: 0", ["mine.yaml:11", "repeats", "greater than 0"]),
        ("steps: 10", "step: 10", ["mine.yaml:10", "protocol.step", "steps"]),
        ("setting:", "setting: &a", []),
        ("margin: 0.05", "margin: 5", ["mine.yaml:1", "question.margin", "less than 1"]),
        ("gradient_predivide_factor: 1e-4", "train_batch_size: 7", ["mine.yaml:9", "train_batch_size"]),
        (
            "workers: 2",
            "workers: 2\n  workers: 4",
            ["mine.yaml:7", "setting.workers", "written twice, first in line 6"],
        ),
        ("repeats: 3", "repeats: [", ["mine.yaml:12", "not valid YAML"]),
        ("model: lenet", "model: 'nowhere:net'", ["mine.yaml:3", "nowhere.py"]),
        ("arms:", "brams:", ["mine.yaml", "'arms' is missing"]),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    if not words:
        load_space(write(tmp_path, GOOD.replace(old, new, 1)))
        return
    message = refused(tmp_path, GOOD.replace(old, new, 1))
    for word in words:
        assert word in message


def test_a_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD, setting__batch_sise="3")
    assert message.startswith("setting.batch_sise=3: ")
    assert "batch_size" in message


def test_differing_arms_must_be_declared(tmp_path: Path) -> None:
    text = GOOD.replace("ddp: {engine: torch}", "ddp: {engine: torch, setting: {precision: bf16}}")
    assert "precision" in refused(tmp_path, text)
    _, space = load_space(write(tmp_path, text + "differs: [precision]\n"))
    assert space.differs == ("precision",)


@pytest.mark.parametrize("text", ["", "[]", "3", "setting: 3\narms: {}", "\x00", "setting: {a: *b}"])
def test_what_is_no_space(tmp_path: Path, text: str) -> None:
    assert "mine.yaml" in refused(tmp_path, text)


def test_unknown_spaces_list_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown space 'quikstart'; did you mean quickstart\?"):
        load_space("quikstart")
    with pytest.raises(UserError, match=r"unknown space 'no_such'; known: .*quickstart"):
        load_space("no_such")
    with pytest.raises(UserError, match="no such space file"):
        load_space("nowhere/mine.yaml")
    with pytest.raises(UserError, match=r"unknown space"):
        load_space("../search_spaces/quickstart")


def test_every_shipped_space_loads() -> None:
    shipped = {path.stem for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert {"quickstart", "lenet", "cnns", "vits"} <= shipped <= set(known_spaces())
    for name in shipped:
        load_space(name)


@pytest.mark.parametrize("command", ["sweep", "plan"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "space= is missing"),
        (["spce=lenet"], "did you mean space="),
        (["space="], "space= is empty"),
        (["quickstart"], "neither key=value nor an option"),
        (["space=quickstart", "--jsn"], "--jsn"),
        (["space=quickstart", "repeats=1", "repeats=2"], "given twice"),
        (["space=quickstart", "sweep=../x"], "sweep=../x"),
        (["space=quickstart", "setting.batch_size=[64"], "setting.batch_size=[64"),
        (["space=quickstart", "setting.model=${nothing}"], "nothing"),
    ],
)
def test_bad_commands_are_one_line_exit_2_and_leave_nothing(
    command: str,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._guarded(__main__.main, [command, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert words in said.err
    assert list(tmp_path.iterdir()) == []


VARIANTS = """\
setting:
  model: lenet
  dataset: digits
  workers: 2
  optimizer: {name: adamw, lr: 1e-3}
variants:
  - {batch_size: [32, 64], precision: fp32}
  - {batch_size: 16, precision: bf16, optimizer: {name: sgd, lr: 0.1}}
sizes:
  small:
    setting: {workers: 1}
    repeats: 2
  tiny:
    variants: [{batch_size: 8}]
    protocol: {step: 3}
arms:
  ddp: {engine: torch}
  zero1: {engine: deepspeed, zero: 1}
"""


def chosen(space: Space) -> list[tuple[object, ...]]:
    settings = [Setting.model_validate(values) for values in space.settings()]
    return [(s.batch_size, s.precision, s.optimizer.name, s.optimizer.lr, s.workers) for s in settings]


def test_variants_are_a_union_of_products(tmp_path: Path) -> None:
    _, space = load_space(write(tmp_path, VARIANTS))
    assert chosen(space) == [
        (32, "fp32", "adamw", 1e-3, 2), (64, "fp32", "adamw", 1e-3, 2), (16, "bf16", "sgd", 0.1, 2)
    ]  # fmt: skip
    assert space.axes() == ["optimizer", "batch_size", "precision"]


def test_overrides_of_the_setting_win_over_variants(tmp_path: Path) -> None:
    path = write(tmp_path, VARIANTS)
    _, space = load_space(path, {"setting.precision": "fp32", "setting.optimizer.lr": "0.5"})
    assert [one[1:4] for one in chosen(space)] == [("fp32", "adamw", 0.5)] * 2 + [("fp32", "sgd", 0.5)]
    _, space = load_space(path, {"setting.batch_size": "[4,8]", "setting.precision": "fp32"})
    assert len(chosen(space)) == 4
    same = {"setting.batch_size": "8", "setting.precision": "fp32", "setting.optimizer": "{name: adamw}"}
    name, space = load_space(path, same | {"setting.optimizer.lr": "1"})
    assert chosen(space) == [(8, "fp32", "adamw", 1.0, 2)]  # equal now, and one
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(space.model_dump(mode="json")))
    assert build_plan(name, load_space(str(again))[1]) == build_plan(name, space)


def test_another_kind_of_a_section_replaces_it_in_variants_and_sizes(tmp_path: Path) -> None:
    text = VARIANTS.replace("setting: {workers: 1}", "setting: {optimizer: {name: sgd, momentum: 0.5}}")
    text = text.replace("repeats: 2", "protocol: {kind: train, epochs: 3}") + "protocol: {steps: 7}\n"
    _, space = load_space(write(tmp_path, text), size="small")
    assert (space.protocol.kind, space.protocol.epochs) == ("train", 3)
    assert space.setting["optimizer"] == {"name": "sgd", "momentum": 0.5}
    _, space = load_space(write(tmp_path, VARIANTS), {"setting.optimizer.name": "lamb"})
    assert [Setting.model_validate(values).optimizer.name for values in space.settings()] == ["lamb"] * 3


def test_sizes_are_merged_over_the_space(tmp_path: Path) -> None:
    path = write(tmp_path, VARIANTS)
    name, space = load_space(path, size="small")
    assert (space.repeats, {one[-1] for one in chosen(space)}) == (2, {1})
    assert load_space(path, {"repeats": "5"}, size="small")[1].repeats == 5
    assert build_plan(name, space).sweep != build_plan(*load_space(path)).sweep
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(space.model_dump(mode="json")))
    assert build_plan(name, load_space(str(again))[1]) == build_plan(name, space)


@pytest.mark.parametrize(
    ("old", "new", "size", "words"),
    [
        ("", "", "smal", ["size=smal", "mine.yaml", "did you mean small"]),
        ("", "", "tiny", ["mine.yaml:15", "protocol.step", "steps"]),
        ("setting: {workers: 1}", "setting: {workers: 3}", "small", ["batch_size 32", "workers 3"]),
        ("setting: {workers: 1}", "setting: {worker: 3}", "small", ["mine.yaml:11", "setting.worker", "workers"]),
        ("small:\n", "small: 3\n  other:\n", "", ["mine.yaml:9", "sizes", "mapping"]),
        ("precision: bf16", "precison: bf16", "", ["mine.yaml:8", "variants.1.precison", "precision"]),
        ("precision: bf16", "precision: bf61", "", ["mine.yaml:8", "variants.1.precision", "bf61"]),
        ("lr: 0.1", "lr: -1", "", ["mine.yaml:8", "variants.1.optimizer", "greater than 0"]),
        ("lr: 1e-3", "lr: -1", "", ["mine.yaml:5", "setting.optimizer", "greater than 0"]),
        ("batch_size: 16", "batch_size: []", "", ["mine.yaml:8", "variants.1.batch_size", "empty"]),
        ("batch_size: 16", "batch_size: 15", "", ["mine.yaml:8", "variants.1", "not divisible by workers 2"]),
        ("batch_size: 16", "model: nonet", "", ["mine.yaml:8", "variants.1", "batch_size", "missing"]),
        ("precision: bf16", "model: nonet", "", ["mine.yaml:8", "variants.1.model", "nonet"]),
        (
            "{batch_size: 16, precision: bf16, optimizer: {name: sgd, lr: 0.1}}", "{batch_size: 64}", "",
            ["mine.yaml:8", "variants.1", "variants.0 gives already"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_variants_and_sizes_has_its_place(
    tmp_path: Path, old: str, new: str, size: str, words: list[str]
) -> None:
    assert old in VARIANTS
    with pytest.raises(UserError) as caught:
        load_space(write(tmp_path, VARIANTS.replace(old, new, 1)), size=size)
    for word in words:
        assert word in str(caught.value)


def test_a_mistake_in_an_override_of_variants_names_the_override(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^setting.precision=fp61: setting.precision: "):
        load_space(write(tmp_path, VARIANTS), {"setting.precision": "fp61"})


def test_a_space_without_sizes_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"size=small: unknown to .*mine.yaml; this space has none"):
        load_space(write(tmp_path, GOOD), size="small")


@pytest.mark.parametrize("size", ["", "small"])
def test_what_a_sweep_writes_of_a_shipped_space_plans_the_same_again(tmp_path: Path, size: str) -> None:
    for name in sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml")):
        _, space = load_space(name, {"seed": "3"}, size=size)
        again = tmp_path / f"{name}.yaml"
        again.write_text(yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False))
        assert build_plan(name, load_space(str(again))[1]) == build_plan(name, space), name


def test_every_shipped_space_has_a_small_size_with_all_of_its_arms() -> None:
    for name in sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml")):
        (_, whole), (_, small) = load_space(name), load_space(name, size="small")
        assert list(small.arms) == list(whole.arms), name
        assert max(values["workers"] for values in small.settings()) == 2
        offline = {"digits", "synthetic", "synthetic_loader", "synthetic_tokens", "pydoc"}
        assert {values["dataset"] for values in small.settings()} <= offline, name


@pytest.mark.parametrize(
    ("overrides", "datasets"),
    [
        ({}, ["digits", "digits", "pydoc"]),
        ({"setting.model": "lenet"}, ["digits"]),
        ({"setting.model": "hf/llama"}, ["pydoc"]),
        ({"setting.sequence_length": "32"}, ["pydoc"]),
        ({"setting.dataset": "mnist"}, ["mnist", "mnist"]),
    ],
)
def test_an_override_means_the_variants_of_its_task(overrides: dict[str, str], datasets: list[str]) -> None:
    space = load_space("quickstart", overrides)[1]
    assert [values["dataset"] for values in space.settings()] == datasets


def test_the_paper_has_27_settings_in_both_sizes() -> None:
    for size in ("", "small"):
        settings = list(load_space("paper", size=size)[1].settings())
        models = {values["model"] for values in settings}
        assert (len(settings), len(models), len({values["dataset"] for values in settings})) == (27, 9, 2)
        assert all(sum(values["model"] == model for values in settings) == 3 for model in models)


def test_a_trial_over_several_nodes_shares_them_with_nobody() -> None:
    with pytest.raises(UserError, match=r"slots_per_node: a trial over several nodes has them to itself"):
        load_space("quickstart", {"slots_per_node": "2", "setting.nodes": "2"})
    with pytest.raises(UserError, match=r"workers 2 cannot be spread evenly over nodes 3"):
        load_space("quickstart", {"setting.nodes": "3"})
