"""A task of the user's own: the examples train, and what a task gets wrong is a line before the first leg."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from raybench.declare.plan import Plan, build_plan
from raybench.declare.setting import Setting
from raybench.declare.space import load_space
from raybench.training.tasks.check import problem_of
from tests.conftest import ROOT, command_environment

EXAMPLES = ROOT / "examples"
SHORT = {"protocol.warmup_steps": "1", "protocol.phases": "false", "protocol.telemetry": "false", "repeats": "1"}


@pytest.mark.distributed
@pytest.mark.slow
def test_the_examples_train_alike_in_every_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    plans = [build_plan(name, load_space(f"{name}.yaml", SHORT)[1]) for name in ("diffusion", "table")]
    trials = sum((plan.trials for plan in plans), ())
    plan = Plan(space="examples", sweep="examples", question=plans[0].question, trials=trials)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "raybench.training", str(tmp_path / "plan.json"), f"ledger={tmp_path / 'ledger'}"],
        cwd=EXAMPLES, env=command_environment(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu"), capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = pq.read_table(tmp_path / "ledger").to_pylist()
    assert {(row["task"], row["status"]) for row in rows} == {("diffusion:Denoising", "ok"), ("table:Regression", "ok")}
    for task in ("diffusion:Denoising", "table:Regression"):
        of_task = {row["arm"]: row for row in rows if row["task"] == task and not row["round"]}
        assert of_task["zero1"]["step_losses"] == pytest.approx(of_task["ddp"]["step_losses"], rel=1e-4)
        assert of_task["ddp"]["final_loss"] < of_task["ddp"]["first_loss"]
        assert math.isfinite(of_task["ddp"]["eval_loss"])


WRONG = """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset
    from raybench.training.tasks import Task

    class Right(Task):
        def build_model(self): return nn.Linear(3, 1)
        def dataset(self, *, train): return TensorDataset(torch.ones(40, 3))
        def loss(self, model, batch): return model(batch[0]).mean()
    class NoScalar(Right):
        def loss(self, model, batch): return model(batch[0])
    class NoTensor(Right):
        def loss(self, model, batch): return 1.0
    class Detached(Right):
        def loss(self, model, batch): return model(batch[0]).mean().detach()
    class Empty(Right):
        def dataset(self, *, train): return TensorDataset(torch.ones(0, 3))
    class Unlike(Right):
        def dataset(self, *, train): return TensorDataset(torch.rand(40, 3))
    class NoModel(Right):
        def build_model(self): return None
    class Raises(Right):
        def build_model(self): raise RuntimeError("no such thing")
    class Stranger: pass
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("own")
    (folder / "owntasks.py").write_text(textwrap.dedent(WRONG))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Right", ""),
        ("NoScalar", "its loss has the shape (2, 1); it must be a scalar"),
        ("NoTensor", "its loss is float, not a tensor"),
        ("Detached", "does not depend on the model's parameters"),
        ("Empty", "there are no training samples"),
        ("Unlike", "arms would train on different batches"),
        ("NoModel", "build_model gives NoneType"),
        ("Raises", "RuntimeError: no such thing"),
        ("Stranger", "not a class derived from raybench.training.tasks.Task"),
        ("Missing", "owntasks.py has no 'Missing'"),
    ],
)
def test_what_a_task_gets_wrong_is_a_line(tasks: Path, name: str, words: str) -> None:
    found = problem_of(Setting.model_validate({"task": f"owntasks:{name}", "batch_size": 4}))
    assert words in found
    assert bool(found) == bool(words)
    assert "\n" not in found


def test_own_models_are_tried_as_timms_are(tasks: Path) -> None:
    (tasks / "pairs.py").write_text(
        textwrap.dedent("""
            from types import SimpleNamespace
            from torch import nn

            class Net(nn.Module):
                def __init__(self, logits, answer):
                    super().__init__()
                    self.head, self.answer = nn.Linear(3, logits), answer
                def forward(self, images):
                    return self.answer(self.head(images.mean((2, 3))))

            def pair(num_classes, **_): return Net(num_classes, lambda logits: (logits, logits))
            def many(num_classes, **_): return Net(1000, lambda logits: logits)
            def named(num_classes, **_): return Net(num_classes, lambda logits: SimpleNamespace(logits=logits))
            def nothing(num_classes, **_): return None
        """)
    )
    answers = {"pair": "gives tuple", "many": "gives (2, 1000), not 2 x 10", "named": "", "nothing": "gives NoneType"}
    answers |= {"nothign": "pairs.py has no 'nothign'; did you mean nothing"}
    for function, words in answers.items():
        found = problem_of(Setting(model=f"pairs:{function}", dataset="digits", batch_size=2))
        assert words in found, found
        assert bool(found) == bool(words), found


def test_the_driver_asks_before_ray_starts(tasks: Path) -> None:
    settings = [{"task": f"owntasks:{name}", "batch_size": 4} for name in ("Right", "NoScalar")]
    done = subprocess.run(
        [sys.executable, "-m", "raybench.training.tasks.check"], input=json.dumps(settings), capture_output=True,
        text=True, check=True, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tasks}"},
    )  # fmt: skip
    right, wrong = json.loads(done.stdout.splitlines()[-1])
    assert right == ""
    assert "must be a scalar" in wrong


def test_what_cannot_be_built_leaves_no_rank_alone_where_data_are_fetched() -> None:
    from raybench.training.ranks import Ranks
    from raybench.training.worker import _wrong_with_data

    ranks = Ranks(0, 1, torch.device("cpu"), None)
    wrong, missing = (
        Setting.model_validate({"task": task, "dataset": "cifar10", "batch_size": 4, "download": True})
        for task in ("json:JSONDecoder", "nosuchmodule:Thing")
    )
    assert "not a class derived from" in str(_wrong_with_data(wrong, ranks, False))
    assert _wrong_with_data(missing, ranks, False) is None  # its legs meet it, and record it


def test_samples_may_hold_single_numbers(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raybench.training.tasks import build_task

    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("table:Regression", "diffusion:Denoising"):
        one = Setting.model_validate({"task": name, "batch_size": 4})
        assert problem_of(one) == ""
        assert build_task(one).data_digest() == build_task(one).data_digest()


def test_a_batch_is_any_tree(tasks: Path) -> None:
    from raybench.training.tasks import trees

    tree = {"a": torch.ones(4, 2), "b": [torch.zeros(4, dtype=torch.int64), "word"]}
    assert trees.batch_size(tree) == 4
    assert trees.first(tree, 1)["b"][0].shape == (1,)
    cast = trees.cast(tree, torch.bfloat16)
    assert (cast["a"].dtype, cast["b"][0].dtype, cast["b"][1]) == (torch.bfloat16, torch.int64, "word")
