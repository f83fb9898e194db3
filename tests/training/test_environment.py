"""What a row says of its machine: no secrets, every node, and null where nothing is said."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from raybench.machine.variables import WORKING_TREE
from raybench.training.node.environment import differences, environment, gather_environment
from raybench.training.ranks import Ranks

CPU = torch.device("cpu")


def test_only_listed_variables_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    found = environment(CPU)
    assert found["variables"]["NCCL_P2P_DISABLE"] == "1"
    assert "hunter2" not in str(found)


def test_the_working_tree_is_that_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKING_TREE, str(tmp_path))
    outside = environment(CPU)
    assert (outside["working_tree_commit"], outside["working_tree_dirty"]) == (None, None)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "model.py").write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = environment(CPU)
    assert len(clean["working_tree_commit"]) == 40
    assert clean["working_tree_dirty"] is False
    (tmp_path / "model.py").write_text("x = 2\n")
    assert environment(CPU)["working_tree_dirty"] is True
    assert outside["git_commit"] == clean["git_commit"]  # raybench's own source is another tree


def test_one_process_is_one_node_without_differences() -> None:
    found = gather_environment(Ranks(0, 1, CPU, None))
    assert not {"nodes", "differences", "gpu_uuids"} & set(found)
    assert found["cpu_cores"] > 0


def test_nodes_that_differ_are_named_with_what_differs() -> None:
    first = {"node": "a", "driver": "580", "cpu": "EPYC", "variables": {}}
    same = {**first, "node": "b"}
    other = {**first, "node": "c", "driver": "570", "nccl": "2.27"}
    del other["cpu"]
    assert differences({"a": first, "b": same}) == {}
    assert differences({"a": first, "b": same, "c": other}) == {"c": {"cpu": None, "driver": "570", "nccl": "2.27"}}
