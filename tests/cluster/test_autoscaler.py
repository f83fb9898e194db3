"""What an autoscaler's config says could be started."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.cluster.connection import read_autoscaler
from raybench.cluster.fleet import SLOT
from tests.conftest import ROOT


def test_the_worker_types_of_cluster_yaml_are_what_could_come() -> None:
    scaler = read_autoscaler(ROOT / "cluster.yaml")
    assert scaler is not None
    assert scaler.types
    assert all(type_.resources[SLOT] == 1 for type_ in scaler.types)
    assert all(0 < type_.most <= scaler.most for type_ in scaler.types)
    head = {"CPU": 0.0, "node:__internal_head__": 1.0}
    assert len(scaler.to_come([head])) >= 1


def test_counts_are_those_of_the_file_with_rays_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "max_workers: 5\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 0}}\n  few: {resources: {CPU: 8}, labels: {zone: a}, max_workers: 2}\n"
        "  many: {resources: {CPU: 4}}\n"
    )
    scaler = read_autoscaler(file)
    assert scaler is not None
    assert [(type_.name, type_.most) for type_ in scaler.types] == [("few", 2), ("many", 5)]
    assert len(scaler.to_come([{"CPU": 8.0, "memory": 1.0}])) == 4  # five of all types, and one is there
    assert scaler.types[0].resources == {"CPU": 8, "label:zone=a": 1.0}


@pytest.mark.parametrize("text", ["", "a: [", "max_workers: many", "available_node_types: 3"])
def test_a_config_that_cannot_be_read_starts_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    scaler = read_autoscaler(file)
    assert scaler is None or scaler.to_come([]) == []
