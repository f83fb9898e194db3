"""Evaluation counts every test sample exactly once, whatever the number of ranks, and disturbs nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raybench.training.evaluation import share_of
from tests.training import datafiles
from tests.training.torchrun import torchrun

SAMPLES = (2, 13)  # fewer than three ranks, and a share that is uneven in every way


@pytest.mark.parametrize("samples", [1, 2, 7, 13, 16])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_shares_hold_every_sample_once_and_equally_many_batches(samples: int, world: int, batch_size: int) -> None:
    shares = [share_of(rank, world, samples, batch_size) for rank in range(world)]
    assert len({len(share.batches) for share in shares}) == 1
    assert {len(batch) for share in shares for batch in share.batches} == {batch_size}
    counted = Counter(
        index
        for share in shares
        for batch, count in zip(share.batches, share.counted, strict=True)
        for index in batch[:count]
    )
    assert counted == Counter(range(samples))


@pytest.fixture(scope="module", params=[1, 2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp(f"ranks{request.param}")
    for samples in SAMPLES:
        datafiles.write_mnist(folder / "data" / str(samples), test=samples)
    torchrun(request.param, "tests.training.evaluations", str(folder / "out.json"), str(folder / "data"))
    results: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return results


@pytest.mark.distributed
@pytest.mark.slow
def test_every_engine_says_what_plain_pytorch_says(found: dict[str, Any]) -> None:
    assert len(found) >= 3 * len(SAMPLES)
    for name, result in found.items():
        evaluation, plain = result["evaluation"], result["plain"]
        assert evaluation["num_samples"] == plain["num_samples"], name
        for key in ("accuracy", "accuracy_top5"):
            assert evaluation[key] == pytest.approx(plain[key], abs=1e-6), (name, key)
        assert evaluation["loss"] == pytest.approx(plain["loss"], rel=1e-5), name


@pytest.mark.distributed
@pytest.mark.slow
def test_rank_0s_statistics_are_evaluated_and_each_rank_keeps_its_own(found: dict[str, Any]) -> None:
    if "buffers" in found:  # with more than one rank
        assert len(set(found["buffers"]["norms"])) == len(found["buffers"]["norms"])
        assert found["buffers"]["kept"]
