"""DeepSpeed's operators: a build that fails is tried once in a run, and locks go only where nobody holds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raybench.declare.setting import Adam, Setting
from raybench.errors import Unsupported
from raybench.machine.variables import RUN
from raybench.training.engines import deepspeed_ops
from tests.conftest import command_environment

# What torch 2.13 raises when ninja fails, as g++ 12 and clang 14 word it.
SAID = """Error building extension 'cpu_adam': [1/3] c++ -MMD -MF x.o.d -c /x/cpu_adam.cpp -o cpu_adam.o
FAILED: cpu_adam.o
c++ -MMD -MF x.o.d -c /x/cpu_adam.cpp -o cpu_adam.o
/x/cpu_adam.cpp:3:10: fatal error: omp.h: No such file or directory
compilation terminated.
ninja: build stopped: subcommand failed.
"""


class Builder:
    """Stands for one of DeepSpeed's, whose compiler fails as often as told."""

    name = "planted_op"

    def __init__(self, fails: int = 0, said: str = SAID) -> None:
        self.fails, self.said, self.loads = fails, said, 0

    def load(self, verbose: bool = True) -> None:
        assert not verbose
        self.loads += 1
        if self.loads <= self.fails:
            raise RuntimeError(self.said)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv(RUN, "first")
    monkeypatch.setattr(deepspeed_ops, "_loaded", set())
    return tmp_path


def test_a_build_that_fails_is_told_in_a_line_and_not_tried_again_in_the_same_run(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(fails=1)
    with pytest.raises(Unsupported) as first:
        deepspeed_ops._build(builder)
    assert "DeepSpeed's operator planted_op cannot be built on" in str(first.value)
    assert "/x/cpu_adam.cpp:3:10: fatal error: omp.h: No such file or directory" in str(first.value)
    told = cache / ".raybench-planted_op.txt"
    assert str(told) in str(first.value)
    assert SAID in told.read_text()
    with pytest.raises(Unsupported) as second:
        deepspeed_ops._build(builder)
    assert (str(second.value), builder.loads) == (str(first.value), 1)
    monkeypatch.setenv(RUN, "second")  # the compiler may have been mended
    deepspeed_ops._build(builder)
    deepspeed_ops._build(builder)
    assert builder.loads == 2
    assert not told.exists()


def test_a_build_that_fails_without_a_compilers_word(cache: Path) -> None:
    with pytest.raises(Unsupported, match="ninja not being installed"):
        deepspeed_ops._build(Builder(1, "Unable to JIT load the planted_op op due to ninja not being installed."))


@pytest.mark.parametrize(
    ("config", "operators"),
    [
        ({}, []),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1}}}, ["FusedAdamBuilder"]),
        ({"optimizer": {"type": "AdamW", "params": {"torch_adam": True}}}, []),
        ({"optimizer": {"type": "Muon", "params": {"lr": 1}}}, ["FusedAdamBuilder"]),
        ({"optimizer": {"type": "Lion"}, "zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
         ["CPULionBuilder"]),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, ["AsyncIOBuilder"]),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}, "aio": {"use_gds": True}}, ["GDSBuilder"]),
        ({"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}, ["CPUAdamBuilder"]),
        ({"zero_optimization": {"zero_quantized_weights": True}}, ["QuantizerBuilder"]),
        ({"compile": {"deepcompile": True}}, ["DeepCompileBuilder"]),
    ],
)  # fmt: skip
def test_what_a_config_needs_is_known_before_its_leg(config: dict[str, Any], operators: list[str]) -> None:
    setting = Setting(model="lenet", dataset="digits", batch_size=16)
    assert deepspeed_ops.needed_operators(config, setting) == operators
    kernel = setting.model_copy(update={"optimizer": Adam(name="adamw", kernel="deepspeed")})
    assert "FusedAdamBuilder" in deepspeed_ops.needed_operators({}, kernel)


def test_an_operator_that_the_device_has_not_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(Unsupported, match="no DeepCompile for this device"):
        deepspeed_ops._build_named("DeepCompileBuilder")


def test_only_locks_that_nobody_holds_are_cleared(cache: Path) -> None:
    for name in ("dead", "alive"):
        (cache / name).mkdir()
        (cache / name / "lock").touch()
    with (cache / "alive/lock").open():
        assert deepspeed_ops.clear_stale_locks(cache) == [cache / "dead/lock"]
    assert [path.parent.name for path in cache.glob("*/lock")] == ["alive"]


def test_deepspeed_comes_without_mlflow_or_torchs_compiler() -> None:
    script = (
        "import sys; from raybench.training.engines.deepspeed_ops import _import_engine; _import_engine();"
        "print('deepspeed' in sys.modules, *{'mlflow', 'torch._inductor', 'scipy.stats'} & set(sys.modules));"
        "import mlflow.version"  # for whoever wants it later
    )
    environment = command_environment(DS_ACCELERATOR="cpu")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1:] == ["True"]  # DeepSpeed says more before it
