"""An arm's own versions: what may be asked for, and what an installer is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from raybench.cluster.environments import environment_problem, runtime_env
from raybench.declare import packages as packages_module
from raybench.declare.arms import DeepSpeedArm
from raybench.declare.identity import arm_identity
from raybench.declare.packages import check_packages, requirement
from raybench.declare.setting import Setting

HERE = Path.cwd()


def test_a_version_a_url_a_wheel_and_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DeepSpeed").mkdir()
    (tmp_path / "DeepSpeed/setup.py").write_text("")
    (tmp_path / "deepspeed-1-py3-none-any.whl").write_text("")
    assert requirement("deepspeed", "0.18.6") == "deepspeed==0.18.6"
    assert (
        requirement("deepspeed", "git+https://example.org/D.git@abc") == "deepspeed @ git+https://example.org/D.git@abc"
    )
    assert requirement("deepspeed", "./DeepSpeed") == f"deepspeed @ file://{tmp_path}/DeepSpeed"
    wheel = "deepspeed-1-py3-none-any.whl"
    assert requirement("deepspeed", wheel) == f"deepspeed @ file://{tmp_path}/{wheel}"


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ({"deep speed": "1"}, "is not the name of a package"),
        ({"ray": "2.0"}, "runs the trial itself"),
        ({"deepspeed": "newest"}, "is none of: a version"),
        ({"deepspeed": "../nowhere"}, "there is no ../nowhere"),
        ({"deepspeed": "./"}, "is not a checkout"),
    ],
)
def test_what_cannot_be_installed_is_refused(
    packages: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        check_packages(packages)


def test_an_arm_takes_them_and_a_number_is_refused() -> None:
    arm = DeepSpeedArm.model_validate({"engine": "deepspeed", "packages": {"DeepSpeed": "0.18.6"}})
    assert arm.packages == {"deepspeed": "0.18.6"}
    with pytest.raises(ValueError, match=r"write the version as text, as in deepspeed: '0\.2'"):
        DeepSpeedArm.model_validate({"engine": "deepspeed", "packages": {"deepspeed": 0.2}})


def test_only_what_differs_is_installed() -> None:
    assert runtime_env({}, HERE) == {}
    uv = runtime_env({"deepspeed": "0.18.6"}, HERE)["uv"]
    assert uv["packages"] == ["deepspeed==0.18.6"]
    assert "--no-deps" in uv["uv_pip_install_options"]
    assert "--no-deps" not in runtime_env({"torch": "2.12.0"}, HERE)["uv"]["uv_pip_install_options"]


def test_a_relative_path_is_taken_from_where_the_sweep_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/mine").mkdir(parents=True)
    (tmp_path / "here/mine/pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)  # a trial's process is elsewhere: Tune gives it a folder of its own
    made = runtime_env({"deepspeed": "./mine"}, tmp_path / "here")["uv"]["packages"]
    assert made == [f"deepspeed @ {(tmp_path / 'here/mine').as_uri()}"]
    assert environment_problem({"deepspeed": "./mine"}, [], tmp_path) == "deepspeed: there is no ./mine"


def test_an_edited_checkout_is_another_arm_and_another_environment(tmp_path: Path) -> None:
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "deepspeed/engine.py").write_text("a = 1")
    arm = DeepSpeedArm.model_validate({"engine": "deepspeed", "packages": {"deepspeed": str(tmp_path)}})
    setting = Setting.model_validate({"model": "lenet", "dataset": "digits", "batch_size": 8})

    def seen() -> tuple[object, object]:
        packages_module._content.cache_clear()  # as in a command of its own
        return arm_identity(arm, setting), runtime_env(arm.packages, HERE)["uv"]

    first = seen()
    (tmp_path / "deepspeed/__pycache__").mkdir()
    (tmp_path / "deepspeed/__pycache__/engine.pyc").write_text("made by an import")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/index").write_text("made by a look at it")
    assert seen() == first
    (tmp_path / "deepspeed/engine.py").write_text("a = 2")
    identity, environment = seen()
    assert identity != first[0]
    assert environment != first[1]


def test_what_a_build_writes_into_a_git_checkout_is_not_its_content(tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text("a = 1")
    (tmp_path / ".gitignore").write_text("installed.py")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    first = packages_module._content.__wrapped__(tmp_path)
    (tmp_path / "installed.py").write_text("version = 2")  # as DeepSpeed's setup.py does
    assert packages_module._content.__wrapped__(tmp_path) == first
    (tmp_path / "new.py").write_text("b = 1")
    assert packages_module._content.__wrapped__(tmp_path) != first
