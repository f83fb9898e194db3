"""Shell completion: what it offers, that it answers at once, and the Tab key in real shells."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raybench import completion
from raybench.completion import complete
from raybench.declare import catalog
from raybench.declare.protocol import Throughput, Train
from raybench.declare.setting import Setting
from raybench.declare.space import Space
from raybench.manuals import COMMANDS
from tests.conftest import ROOT, command_environment
from tests.terminal import Terminal


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space of one's own and the ledger of a sweep."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("arms: {plain: {}, fancy: {}}\nsizes: {small: {}, tiny: {}}\n")
    ledger = tmp_path / "mlruns/ledger/cnns/friday"
    ledger.mkdir(parents=True)
    (ledger / "_space.yaml").write_text("arms: {ddp: {}, zero7: {}}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("raybench swe", ["sweep"]),
        ("raybench plan space=quick", ["space=quickstart"]),
        ("raybench plan space=mi", ["space=mine.yaml"]),
        ("raybench plan space=mine.yaml size=", ["size=small", "size=tiny"]),
        ("raybench sweep space=mine.yaml baseline=", ["baseline=plain", "baseline=fancy"]),
        ("raybench plan space=mine.yaml arms.f", ["arms.fancy."]),
        ("raybench plan setting.mod", ["setting.model=", "setting.model_options="]),
        ("raybench plan setting.dataset=fashion", ["setting.dataset=fashion_mnist"]),
        ("raybench plan setting.model=[lenet,resnet15", ["setting.model=[lenet,resnet152"]),
        ("raybench plan setting.compile=", ["setting.compile=true", "setting.compile=false"]),
        ("raybench plan protocol.kind=", ["protocol.kind=throughput", "protocol.kind=train"]),
        ("raybench calibrate isolation=", ["isolation=shared", "isolation=both"]),
        ("raybench sweep --q", ["--quiet"]),
        ("raybench analysis mlruns/ledger/c", ["mlruns/ledger/cnns/friday", "mlruns/ledger/cnns/"]),
        ("raybench compare mlruns/ledger/cnns/f", ["mlruns/ledger/cnns/friday", "mlruns/ledger/cnns/friday/"]),
        ("raybench analysis mlruns/ledger/cnns/friday baseline=", ["baseline=ddp", "baseline=zero7"]),
        ("raybench analysis mlruns/ledger/cnns/friday ladder=ddp,z", ["ladder=ddp,zero7"]),
        ("raybench completion z", ["zsh"]),
        ("raybench nonsense ", []),
        ("raybench plan space=no_such_space size=", []),
    ],
)
def test_what_a_word_can_become(line: str, words: list[str], work: Path) -> None:
    found = complete(line)
    assert [word for word in found if word in words] == words
    if len(words) == 1 and "model=[" not in line:
        assert found == words


def test_the_keys_are_those_of_the_classes() -> None:
    fields = completion._fields()
    for model in (Setting, Space, Throughput, Train):
        assert set(fields[model.__name__]) == set(model.model_fields)
    assert fields["Setting"]["precision"] == ("fp32", "tf32", "bf16", "fp16")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_completes_its_options(command: str) -> None:
    assert "--help" in complete(f"raybench {command} --")


def test_every_model_can_be_completed() -> None:
    models = {word.partition("=")[2] for word in complete("raybench plan setting.model=")}
    assert models == catalog.known_models()


def test_it_answers_at_once(work: Path) -> None:
    script = "import sys; sys.argv[1:] = ['complete', 'raybench plan space=cnns setting.model=res']\n"
    script += "from raybench.__main__ import main; main(sys.argv[1:]); print(*sorted(sys.modules))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=command_environment(), check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    modules = set(done.stdout.splitlines()[-1].split())
    assert not modules & {"pydantic", "numpy", "rich", "omegaconf", "torch", "ray", "mlflow", "timm"}
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    )  # processor seconds, start included


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(raybench completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -u -D; source <(raybench completion zsh)"),
    "fish": (["fish", "--no-config"], "raybench completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_in_a_real_shell(shell: str, work: Path) -> None:
    arguments, setup = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = work / "bin/raybench"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m raybench "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = command_environment(PATH=path, HOME=str(work), PYTHONPATH=str(ROOT))
    with Terminal(arguments, work, environment, columns=200) as terminal:
        sum_up = "(math 40 + 2)" if shell == "fish" else "$((40 + 2))"
        terminal.press(f"{setup}; echo ready-{sum_up}\n")
        terminal.until("ready-42", timeout=60)
        terminal.press("raybench pl\t")
        terminal.until("raybench plan ", timeout=30)
        terminal.press("space=quicks\t")
        terminal.until("space=quickstart ", timeout=30)
        terminal.press("setting.precision=bf\t")
        terminal.until("setting.precision=bf16", timeout=30)


def test_a_shell_without_a_script_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raybench", "completion", "tcsh"], capture_output=True, text=True, check=False,
        env=command_environment(),
    )  # fmt: skip
    assert (done.returncode, "known: bash, fish, zsh" in done.stderr) == (2, True)
