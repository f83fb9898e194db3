"""`list`, `init` and `open`: what they print, write and refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raybench import init, open
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.list import main as list_names
from tests.conftest import ROOT


def test_list_names_spaces_and_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_names([f"results={ROOT / 'results'}"]) == 0
    shown = capsys.readouterr().out
    assert "quickstart" in shown
    assert f"{ROOT / 'results/zero/small'}" in shown
    assert "264 legs, 0 failed" in shown


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["models", "resnet1"], "resnet18  "),
        (["datasets", "pydoc"], "pydoc  text: the help of Python itself, half a megabyte"),
        (["datasets", "cifar100"], "cifar100  50,000 images of 32 pixels, 100 classes"),
        (["sweeps", "results=nowhere"], "no sweeps"),
    ],
)
def test_list_finds_a_name_by_a_part_of_it(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    list_names(words)
    assert line in capsys.readouterr().out


def test_list_refuses_an_unknown_kind() -> None:
    with pytest.raises(UserError, match="did you mean models"):
        list_names(["model"])


def test_init_writes_a_space_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert init.main(["mine.yaml", "model=resnet18", "batch_size=32,64", "arms=zero2,fsdp"]) == 0
    _, space = load_space("mine.yaml")
    assert [setting["batch_size"] for setting in space.settings()] == [32, 64]
    assert list(space.arms) == ["torch", "zero2", "fsdp"]
    assert os.listdir() == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine.yaml", "model=resnet188"], "mine.yaml:6: setting.model: unknown model 'resnet188'; did you mean"),
        (["mine.yaml", "arms=zero9"], "did you mean zero"),
        (["mine.txt"], "ends in .yaml"),
        (["there.yaml"], "--force"),
        ([f"{'x' * 250}.yaml"], "cannot be written (File name too long)"),
        (["nowhere/mine.yaml"], "nowhere/mine.yaml: there is no folder nowhere"),
    ],
)
def test_init_refuses_what_no_space_takes(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("kept")
    with pytest.raises(UserError) as refused:
        init.main(words)
    assert said in str(refused.value)
    assert os.listdir() == ["there.yaml"]
    assert Path("there.yaml").read_text() == "kept"


def test_the_newest_report_is_found(tmp_path: Path) -> None:
    for age, name in ((100, "old"), (0, "new")):
        report = tmp_path / "cnns" / name / "_report" / "report.html"
        report.parent.mkdir(parents=True)
        report.write_text("")
        os.utime(report, (1e9 - age, 1e9 - age))
    assert open.find_report(None, tmp_path) == tmp_path / "cnns/new/_report/report.html"
    assert open.find_report(tmp_path / "cnns/old", tmp_path).parent.parent.name == "old"
    with pytest.raises(UserError, match="no report"):
        open.find_report(None, tmp_path / "nowhere")
