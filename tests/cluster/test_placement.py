"""Before a sweep starts anything: does the cluster fit it, are its data here? And after: is it where it should be?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raybench.cluster.fleet import SLOT, Autoscaler, Need, NodeType
from raybench.cluster.placement import (
    Cluster,
    Place,
    check_data,
    check_fits,
    check_placement,
    need_of,
    threads_per_worker,
    worker_resources,
)
from raybench.declare import datasets
from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import Space
from raybench.errors import UserError
from raybench.machine.places import RankPlace, RankReport
from raybench.sweep import seconds_to_wait
from tests.training import datafiles


def plan(**setting: Any) -> Plan:
    return build_plan(
        "mine",
        Space.model_validate(
            {
                "setting": {"model": "lenet", "image_size": 32, "batch_size": 8, **setting},
                "arms": {"ddp": {"engine": "torch"}, "fsdp": {"engine": "fsdp"}},
                "repeats": 1,
            }
        ),
    )


def test_data_that_are_here_will_do(tmp_path: Path) -> None:
    datafiles.write_svhn(tmp_path)
    check_data(plan(dataset="svhn", data_root=str(tmp_path)))
    check_data(plan(dataset="digits"))


def test_data_that_are_not_here_are_told_with_what_to_do(tmp_path: Path) -> None:
    absent = {"dataset": "svhn", "data_root": str(tmp_path)}
    with pytest.raises(UserError, match=rf"svhn is not in {tmp_path}: missing train_32x32.mat, test_32x32.mat; put"):
        check_data(plan(**absent))
    check_data(plan(**absent, download=True))  # will be fetched


def test_an_image_folder_is_counted(tmp_path: Path) -> None:
    datasets._count.cache_clear()
    with pytest.raises(UserError, match=rf"{tmp_path}/train is no folder"):
        check_data(plan(dataset="imagefolder", data_root=str(tmp_path)))
    datafiles.write_folder(tmp_path)
    datasets._count.cache_clear()
    check_data(plan(dataset="imagefolder", data_root=str(tmp_path), batch_size=24))
    with pytest.raises(UserError, match="batch_size: 25 is more than the 24 training images"):
        check_data(plan(dataset="imagefolder", data_root=str(tmp_path), batch_size=25))


HEAD = {"CPU": 0.0, "node:__internal_head__": 1.0}
SCALER = Autoscaler((NodeType("gpu", {"CPU": 48, "GPU": 4, SLOT: 1, "accelerator_type:A10G": 1}, most=2),), most=2)


def cluster(*nodes: dict[str, float], autoscaler: Autoscaler | None = None) -> Cluster:
    return Cluster(nodes, is_local=False, autoscaler=autoscaler)


def cpu_node(cpus: int = 4, **more: float) -> dict[str, float]:
    return {"CPU": float(cpus), SLOT: 1.0, **more}


def trained(**setting: Any) -> Plan:
    return plan(dataset="digits", **setting)


def test_a_trial_takes_its_nodes_whole_and_each_worker_its_part() -> None:
    (trial,) = trained(workers=4, nodes=2).trials
    there = cluster(cpu_node(), cpu_node())
    assert worker_resources(trial, there) == {"CPU": 1, SLOT: 0.5}
    assert need_of(trial, there) == Need(2, (("CPU", 2), (SLOT, 1.0)))
    assert threads_per_worker(trial, cluster(cpu_node(8), cpu_node(4))) == 2
    shared = trial.model_copy(update={"slots_per_node": 2, "setting": trained(workers=2).trials[0].setting})
    assert dict(need_of(shared, there).resources) == {"CPU": 2, SLOT: 0.5}
    assert threads_per_worker(shared, there) == 1


@pytest.mark.parametrize(
    ("setting", "nodes", "words"),
    [
        ({"workers": 8}, [cpu_node()], "8 workers need 8 CPUs on one node, and there are 4"),
        (
            {"workers": 4, "nodes": 2},
            [cpu_node()],
            "needs 2 nodes with 2 CPUs and a bench_slot each, but 1 of the nodes",
        ),
        ({"workers": 2, "nodes": 2}, [{"CPU": 4.0}] * 2, "needs nodes that declare a slot"),
        ({"device": "cuda"}, [cpu_node()], "asks for cuda, and there is no GPU"),
        (
            {"accelerator": "H100"},
            [cpu_node(**{"accelerator_type:A100": 1.0})],
            "no node has 'H100'; there is A100",
        ),
        (
            {"node_labels": {"zone": "c"}},
            [cpu_node(**{"label:zone=a": 1.0}), cpu_node(**{"label:zone=b": 1.0, "label:rack=c": 1.0})],
            "setting.node_labels: no node has zone=c; there is zone=a, zone=b (",
        ),
        ({"node_labels": {"zone": "c"}}, [cpu_node()], "no node has zone=c; there is none with zone"),
        (
            {"node_labels": {"zone": "a"}, "workers": 2, "nodes": 2},
            [cpu_node(**{"label:zone=a": 1.0}), cpu_node()],
            "needs 2 nodes with 1 CPU and a bench_slot each, labelled zone=a, but 1 of the nodes can run it",
        ),
        ({}, [HEAD], "no node has a CPU for a worker (a Ray cluster of 1 node: 0 CPUs"),
    ],
)
def test_a_cluster_that_can_never_run_a_trial_is_told_in_one_line(
    setting: dict[str, Any], nodes: list[dict[str, float]], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        check_fits(trained(**setting), cluster(*nodes))


def test_what_the_autoscaler_can_start_counts() -> None:
    there = cluster(HEAD, autoscaler=SCALER)
    check_fits(trained(workers=4, nodes=2, accelerator="A10G"), there)
    assert there.slots == 2
    assert "1 node and 2 more that its autoscaler can start: 48 CPUs, 4 GPUs" in there.describe()
    with pytest.raises(UserError, match="needs 4 nodes"):
        check_fits(trained(workers=8, nodes=4), there)
    alive = {**SCALER.types[0].resources, "memory": 5.0}
    assert len(SCALER.to_come([HEAD, alive])) == 1
    assert SCALER.to_come([HEAD, alive, cpu_node()]) == []  # two workers are all that there may be


def test_kinds_that_are_not_compared_with_each_other_are_named_beforehand() -> None:
    nodes = (cpu_node(**{"accelerator_type:A100": 1.0}), cpu_node(**{"accelerator_type:H100": 1.0}))
    words = Place(cluster(*nodes)).in_words(trained(workers=2))
    assert "Nodes of 2 kinds can run it (A100 and 4 CPUs; H100 and 4 CPUs)" in words
    assert "kinds" not in Place(cluster(*nodes)).in_words(trained(workers=2, accelerator="A100"))
    nodes = (cpu_node(4, **{"label:zone=a": 1.0}), cpu_node(8, **{"label:zone=b": 1.0}))
    assert "Nodes of 2 kinds" in Place(cluster(*nodes)).in_words(trained(workers=2))
    assert "kinds" not in Place(cluster(*nodes)).in_words(trained(workers=2, node_labels={"zone": "a"}))
    spanning = Place(cluster(cpu_node(), cpu_node())).in_words(trained(workers=2, nodes=2))
    assert spanning.endswith("up to 2 trials at a time, each on nodes of its own, of 2 workers on 2 nodes")


def places(*ranks: tuple[str, str], **more: Any) -> list[RankReport]:
    return [RankReport(RankPlace(node, (gpu,) if gpu else ()), f"id-{node}", **more) for node, gpu in ranks]


TWO = places(("a", "u1"), ("a", "u2"), ("b", "u3"), ("b", "u4"), gpu="H100", foreign_processes=0)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (TWO, ""),
        (TWO[:2] * 2, "its 4 workers are on 1 nodes (a), and should be on 2"),
        ([*TWO[:3], TWO[0]], "unevenly placed on a, b: 3, 1, and should be 2 a node"),
        ([*TWO[:3], replace(TWO[3], gpu="A100")], "its GPUs are not alike: H100, A100"),
        ([*TWO[:3], replace(TWO[3], place=RankPlace("b", ("u3",)))], "rank 2 on b shares its GPU u3 with another rank"),
        ([*TWO[:3], replace(TWO[3], foreign_processes=2)], "rank 3 on b: 2 other processes use its GPU u4"),
        (
            [*TWO[:3], replace(TWO[3], versions={"torch": "2.12.1", "deepspeed": None})],
            "rank 3 on b: torch 2.12.1 and not 2.13.0; deepspeed is missing and not 0.19.8",
        ),
        (places(("a", ""), ("a", ""), ("b", ""), ("b", ""), foreign_processes=None), ""),
    ],
)
def test_a_wrong_placement_is_told_in_one_line(found: list[RankReport], problem: str) -> None:
    (trial,) = trained(workers=4, nodes=2).trials
    said = check_placement(found, trial.setting, {"torch": "2.13.0", "deepspeed": "0.19.8"})
    assert (problem in said) if problem else (said == "")


def test_workers_that_cannot_be_spread_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="workers 4 cannot be spread evenly over nodes 3"):
        trained(workers=4, nodes=3)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1e9"])
def test_how_long_to_wait_is_a_number_of_minutes(text: str) -> None:
    assert seconds_to_wait("0.5") == 30.0
    with pytest.raises(UserError, match=f"wait={text}: minutes to wait"):
        seconds_to_wait(text)
