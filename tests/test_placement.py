"""Before a sweep of this machine starts anything: are its data here?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raybench import datasets
from raybench.errors import UserError
from raybench.placement import check_data
from raybench.plan import Plan, build_plan
from raybench.space import Space
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
    with pytest.raises(UserError, match=rf"svhn is not in {tmp_path}: train_32x32.mat, test_32x32.mat must lie there"):
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
